//! Source files to checked workflows and pools.
//!
//! Reads every document as far as it can and says all that is wrong with it at once; only a document without errors
//! gives a workflow. Never reads a file system or a server: files come through [`FileLookup`], and whether a pool
//! exists is for `apply` to say ([`Compiled::unknown_pools`] helps).
//!
//! Start reading at [`compile`], then `workflow` for the order of things, `read` for how scalars become values, and
//! `keys` for what keys there are.

mod files;
mod graph;
mod keys;
mod params;
mod read;
mod schedules;
mod tasks;
mod texts;
mod workflow;

use std::collections::{BTreeMap, BTreeSet};

use matins_core::id::{Digest, Namespace, PoolName, ScheduleName, TaskName};
use matins_core::ir::Workflow;

use crate::diagnostic::{Diagnostic, Place, Reporter, Severity, Span, did_you_mean, nearest};
use crate::yaml::{self, Node, Value};

pub use files::{FILES_BYTES_MAX, FileLookup, FoundFile, NoFiles, glob_matches};
pub(crate) use graph::Graph;

/// DESIGN 5: one source file.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;
/// DESIGN 5: one workflow, compiled.
pub const DEFINITION_BYTES_MAX: usize = 512 << 10;
/// The most slots that a pool may have.
pub(crate) const SLOTS_MAX: i64 = 1_000_000;

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As messages name it; also what [`FileLookup::find`] gets.
    pub name: String,
    /// Its content, which should be UTF-8.
    pub text: Vec<u8>,
}

/// What the caller decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-n`: for files without a namespace of their own; another one in the file is an error (LANGUAGE 1.22).
    pub namespace: Option<Namespace>,
}

/// What became of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Those without errors, in the order of the files.
    pub workflows: Vec<CompiledWorkflow>,
    /// Those without errors, in the order of the files.
    pub pools: Vec<PoolDocument>,
    /// By file, then by place.
    pub diagnostics: Vec<Diagnostic>,
}

/// A workflow, and where its parts stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledWorkflow {
    /// Checked and resolved.
    pub ir: Workflow,
    /// For messages that come later, such as of a pool that does not exist.
    pub positions: Positions,
}

/// Where the parts of a workflow stand in its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    /// The key `workflow`.
    pub workflow: Place,
    /// By name.
    pub schedules: BTreeMap<ScheduleName, Place>,
    /// By name.
    pub tasks: BTreeMap<TaskName, Place>,
    /// Every use of a pool.
    pub pools: Vec<(PoolName, Place)>,
}

/// A `pool` document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDocument {
    /// Its name.
    pub name: PoolName,
    /// How many slots it has, one at least.
    pub slots: u32,
    /// For people; empty if none was given.
    pub description: String,
    /// Where it stands.
    pub place: Place,
}

impl Compiled {
    /// Whether anything must not be applied.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|one| one.severity == Severity::Error)
    }

    /// An error for each use of a pool that is neither in `known` nor in these files (LANGUAGE 1.22).
    pub fn unknown_pools(&self, known: &BTreeSet<PoolName>) -> Vec<Diagnostic> {
        let exists = |pool: &PoolName| known.contains(pool) || self.pools.iter().any(|own| own.name == *pool);
        let names = || known.iter().chain(self.pools.iter().map(|pool| &pool.name)).map(PoolName::as_str);
        let uses = self.workflows.iter().flat_map(|workflow| &workflow.positions.pools);
        uses.filter(|(pool, _)| !exists(pool))
            .map(|(pool, place)| Diagnostic {
                severity: Severity::Error,
                code: "unknown-pool".to_owned(),
                message: format!("there is no pool `{pool}`"),
                place: place.clone(),
                hint: Some(match nearest(pool.as_str(), names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("make it with `matins pool set {pool} 1`, or by a `pool:` document"),
                }),
                related: None,
            })
            .collect()
    }
}

impl CompiledWorkflow {
    /// The compiled form as bytes: equal workflows, equal bytes. With the digests of its files in it, their digest is
    /// the version's identity (LANGUAGE 1.22).
    pub fn encode(&self) -> Vec<u8> {
        encode(&self.ir)
    }

    /// The digest of [`Self::encode`].
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }
}

fn encode(ir: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(ir).expect("the IR has only types that postcard encodes")
}

/// Compiles `sources` together: names must be unique over all of them.
pub fn compile(sources: &[SourceFile], files: &dyn FileLookup, options: &Options) -> Compiled {
    let mut compiled = Compiled { workflows: Vec::new(), pools: Vec::new(), diagnostics: Vec::new() };
    for source in sources {
        let (text, fault) = match readable(source) {
            Ok(text) => (text, None),
            Err((text, fault)) => (text, Some(fault)),
        };
        let mut reporter = Reporter::new(&source.name, text);
        if let Some((span, code, message, hint)) = fault {
            reporter.error(span, code, message).hint(hint);
        } else {
            let namespace = options.namespace.as_ref();
            let around = workflow::Around { source: &source.name, files, namespace };
            source_file(&mut reporter, &around, &mut compiled);
        }
        compiled.diagnostics.extend(reporter.into_diagnostics());
    }
    compiled
}

type Unreadable = (Span, &'static str, String, &'static str);

/// The text of a source; else as much of it as shows the fault.
fn readable(source: &SourceFile) -> Result<&str, (&str, Unreadable)> {
    let bytes = source.text.len();
    if bytes > SOURCE_BYTES_MAX {
        let message = format!("a source file has {SOURCE_BYTES_MAX} bytes at most, this one {bytes}");
        let hint = "put long scripts into files, and split large workflows";
        return Err(("", (Span::default(), "limit-source", message, hint)));
    }
    std::str::from_utf8(&source.text).map_err(|fault| {
        let good = fault.valid_up_to();
        let text = std::str::from_utf8(&source.text[..good]).unwrap_or_default();
        let message = format!("byte {:#04x} is not UTF-8", source.text[good]);
        (text, (Span::new(good, good), "utf-8", message, "save the file as UTF-8"))
    })
}

fn source_file(reporter: &mut Reporter<'_>, around: &workflow::Around<'_>, compiled: &mut Compiled) {
    let documents = yaml::parse(reporter);
    let is_empty = documents.iter().all(Node::is_null);
    if is_empty && reporter.error_count() == 0 {
        reporter
            .error(Span::default(), "empty-file", "the file has no document")
            .hint("begin with `workflow: NAME`; `matins demo --keep` has an example that runs");
    }
    // `---` at the end makes a document of nothing.
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        document_of(reporter, document, around, compiled);
    }
}

fn document_of(
    reporter: &mut Reporter<'_>,
    mut node: Node,
    around: &workflow::Around<'_>,
    compiled: &mut Compiled,
) {
    let Value::Map(entries) = &mut node.value else {
        read::wrong_type(reporter, &node, "a document", "a map of keys");
        reporter.hint_last("begin with `workflow: NAME`");
        return;
    };
    // Top-level `x-*` is a home for anchors (LANGUAGE 1.15).
    entries.retain(|entry| !entry.key.starts_with("x-"));
    let first = entries.first();
    match first.map(|entry| entry.key.as_str()) {
        Some("workflow") => {
            if let Some(workflow) = workflow::workflow(reporter, &node, around) {
                add_workflow(reporter, workflow, compiled);
            }
        }
        Some("pool") => {
            if let Some(pool) = pool(reporter, &node) {
                add_pool(reporter, pool, compiled);
            }
        }
        Some(other) => {
            let hint = match entries.iter().find(|entry| matches!(entry.key.as_str(), "workflow" | "pool")) {
                Some(entry) => Some(format!("move `{}` to the top", entry.key)),
                None => did_you_mean(other, ["workflow", "pool"]),
            };
            let span = first.map_or(node.span, |entry| entry.key_span);
            let message = "a document begins with its kind, `workflow` or `pool`";
            reporter.error(span, "no-kind", message).maybe_hint(hint);
        }
        None => {
            let message = "a document begins with its kind, `workflow` or `pool`";
            reporter.error(node.span, "no-kind", message);
        }
    }
}

fn add_workflow(reporter: &mut Reporter<'_>, workflow: CompiledWorkflow, compiled: &mut Compiled) {
    match compiled.workflows.iter().find(|other| other.ir.name == workflow.ir.name) {
        None => compiled.workflows.push(workflow),
        Some(other) => {
            let message = format!("the workflow `{}` is defined twice", workflow.ir.name);
            let first = other.positions.workflow.clone();
            reporter
                .error_at(workflow.positions.workflow, "duplicate-workflow", message)
                .related(first, "it is defined here first");
        }
    }
}

fn add_pool(reporter: &mut Reporter<'_>, pool: PoolDocument, compiled: &mut Compiled) {
    match compiled.pools.iter().find(|other| other.name == pool.name) {
        None => compiled.pools.push(pool),
        Some(other) => {
            let message = format!("the pool `{}` is defined twice", pool.name);
            let first = other.place.clone();
            reporter
                .error_at(pool.place, "duplicate-pool", message)
                .related(first, "it is defined here first");
        }
    }
}

fn pool(reporter: &mut Reporter<'_>, node: &Node) -> Option<PoolDocument> {
    let fields = read::fields(reporter, node, &keys::POOL, "a pool")?;
    let name = fields.get("pool").and_then(|node| read::name(reporter, node, "`pool`"));
    let key_span = fields.key_span("pool").unwrap_or(node.span);
    if !fields.has("slots") {
        reporter.error(key_span, "missing-key", "the pool has no `slots`").hint("write `slots: 2`");
    }
    let slots = fields.get("slots").and_then(|node| read::integer(reporter, node, "`slots`", (1, SLOTS_MAX)));
    let description = match fields.get("description") {
        Some(node) => read::text(reporter, node, "`description`")?,
        None => String::new(),
    };
    Some(PoolDocument { name: name?, slots: slots? as u32, description, place: reporter.place(key_span) })
}
