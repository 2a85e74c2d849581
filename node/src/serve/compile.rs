//! Source texts from the wire: compiled all at once, and stored before a command names them (LANGUAGE 1.22).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use matins_core::State;
use matins_core::command::Command;
use matins_core::id::{Digest, Namespace, WorkflowName};
use matins_core::ir;
use matins_core::time::Timestamp;
use matins_proto::v1::error::Reason;
use matins_proto::v1::source_file::Content;
use matins_proto::v1::{self, Source, diagnostic};
use matins_workflow::compile::{FileLookup, FoundFile, Options, PoolDocument, glob_matches};
use matins_workflow::{Compiled, Diagnostic, Severity, SourceFile};

use super::api::{Api, Ask, drawn_id};
use super::cluster::BlobMissing;
use super::error::{ApiError, fault_of};

/// Sources of one request.
const SOURCES_MAX: usize = 1_000;
/// Blobs on their way at once.
const UPLOADS_MAX: usize = 8;
/// Longer paths are refused.
const PATH_BYTES_MAX: usize = 4 << 10;

/// A workflow out of a source.
pub(crate) struct Document {
    pub(crate) name: WorkflowName,
    pub(crate) workflow: ir::Workflow,
    pub(crate) definition: Digest,
    /// The text of its document alone.
    pub(crate) text: String,
    /// Its place among all documents.
    pub(crate) place: (usize, u32),
}

/// Sources without a fault.
pub(crate) struct Documents {
    pub(crate) workflows: Vec<Document>,
    pub(crate) pools: Vec<((usize, u32), PoolDocument)>,
    compiled: Compiled,
    extra: Vec<v1::Diagnostic>,
}

/// Compiles sources together: all of them, or every fault.
pub(crate) async fn compile(api: &Api, sources: &[Source], namespace: &str) -> Result<Documents, ApiError> {
    check_sources(sources)?;
    let files = Files::find(api, sources).await?;
    let namespace: Option<Namespace> =
        if namespace.is_empty() { None } else { Some(super::api::named("namespace", namespace)?) };
    let texts: Vec<SourceFile> = sources
        .iter()
        .map(|source| SourceFile { name: source.path.clone(), text: source.text.clone().into_bytes() })
        .collect();
    let compiled = matins_workflow::compile(&texts, &files, &Options { namespace });
    if compiled.has_errors() {
        return Err(faults(Reason::DefinitionInvalid, &compiled.diagnostics));
    }
    files.check_all_named()?;
    let index = |file: &str| sources.iter().position(|source| source.path == file).unwrap_or(0);
    let workflows = compiled.workflows.iter().map(|workflow| {
        let place = &workflow.positions.workflow;
        let source = index(&place.file);
        Document {
            name: workflow.ir.name.clone(),
            definition: workflow.digest(),
            workflow: workflow.ir.clone(),
            text: document_at(&sources[source].text, place.line),
            place: (source, place.line),
        }
    });
    let pools = compiled.pools.iter().map(|pool| ((index(&pool.place.file), pool.place.line), pool.clone()));
    let (workflows, pools) = (workflows.collect(), pools.collect());
    Ok(Documents { workflows, pools, compiled, extra: Vec::new() })
}

fn check_sources(sources: &[Source]) -> Result<(), ApiError> {
    if sources.is_empty() {
        return Err(ApiError::bad_field("sources", "there are none"));
    }
    if sources.len() > SOURCES_MAX {
        return Err(ApiError::limit("sources of one request", SOURCES_MAX as u64, sources.len() as u64));
    }
    let mut paths = BTreeSet::new();
    for source in sources {
        if source.path.len() > PATH_BYTES_MAX {
            let (value, asked) = (PATH_BYTES_MAX as u64, source.path.len() as u64);
            return Err(ApiError::limit("bytes of a source's path", value, asked));
        }
        if !paths.insert(&source.path) {
            return Err(ApiError::bad_field("sources.path", format!("`{}` is there twice", source.path)));
        }
    }
    Ok(())
}

impl Documents {
    /// Forgets pools, with a note for each: those of a text that is run once must exist already.
    pub(crate) fn leave_out_pools(&mut self) {
        for (_, pool) in std::mem::take(&mut self.pools) {
            self.extra.push(v1::Diagnostic {
                severity: diagnostic::Severity::Note.into(),
                code: "pool_left_out".to_owned(),
                message: format!("pool `{}` is left out: a text that is run once makes no pools", pool.name),
                hint: "apply it, or use `matins pool set`".to_owned(),
                path: pool.place.file.clone(),
                line: pool.place.line,
                column: pool.place.column,
            });
        }
        self.compiled.pools.clear();
    }

    /// Refuses pools that nobody made.
    pub(crate) fn check_pools(&self, state: &State) -> Result<(), ApiError> {
        let known = state.pools.iter().map(|(name, _)| name.clone()).collect();
        let unknown = self.compiled.unknown_pools(&known);
        let Some(first) = unknown.first() else { return Ok(()) };
        let is_known =
            |name: &&_| !known.contains(*name) && self.compiled.pools.iter().all(|own| own.name != **name);
        let used = self.compiled.workflows.iter().flat_map(|workflow| &workflow.positions.pools);
        let pool = used.map(|(pool, _)| pool).find(is_known).map(ToString::to_string).unwrap_or_default();
        let error = faults(Reason::PoolNotFound, &unknown).with("pool", pool);
        Err(match &first.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        })
    }

    /// Warnings and notes.
    pub(crate) fn wire_diagnostics(&self) -> Vec<v1::Diagnostic> {
        self.compiled.diagnostics.iter().map(wire).chain(self.extra.iter().cloned()).collect()
    }
}

/// Stores what the definitions name, on a majority, and then the definitions, which changes nothing that can be seen.
pub(crate) async fn store(api: &Api, sources: &[Source], documents: &[Document]) -> Result<(), ApiError> {
    let files = sources.iter().flat_map(|source| &source.files);
    let inline = files.filter_map(|file| match &file.content {
        Some(Content::Inline(bytes)) => Some(Bytes::from(bytes.clone())),
        Some(Content::Digest(_)) | None => None,
    });
    let texts = documents.iter().map(|document| Bytes::from(document.text.clone()));
    // Equal blobs go once.
    let blobs: BTreeMap<Digest, Bytes> =
        inline.chain(texts).map(|bytes| (Digest::of(&bytes), bytes)).collect();
    stream::iter(blobs.into_values())
        .map(|bytes| api.cluster.put_blob(bytes))
        .buffer_unordered(UPLOADS_MAX)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    for document in documents {
        let source = Some(Digest::of(document.text.as_bytes()));
        let definition = Box::new(document.workflow.clone());
        // Storing is idempotent by content, so each time is a request of its own.
        let ask = Ask { id: drawn_id(), not_after: stamp(api) };
        api.command(&ask, Command::StoreDefinition { definition, source }).await?;
    }
    Ok(())
}

fn stamp(api: &Api) -> Timestamp {
    api.leader_time() + matins_core::command::NOT_AFTER_DEFAULT
}

/// The document that holds `line` (from 1) of a source of several.
fn document_at(text: &str, line: u32) -> String {
    let is_border = |line: &str| line == "---" || line.starts_with("--- ");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let at = (line.saturating_sub(1) as usize).min(lines.len().saturating_sub(1));
    let begin =
        lines[..at].iter().rposition(|line| is_border(line.trim_end())).map_or(0, |border| border + 1);
    let end = lines[at..].iter().position(|line| is_border(line.trim_end()));
    lines[begin..end.map_or(lines.len(), |border| at + border)].concat()
}

fn faults(reason: Reason, diagnostics: &[Diagnostic]) -> ApiError {
    let errors: Vec<&Diagnostic> = diagnostics.iter().filter(|one| one.severity == Severity::Error).collect();
    let message = match errors.as_slice() {
        [one] => format!("{}:{}:{}: {}", one.place.file, one.place.line, one.place.column, one.message),
        several => format!("the sources have {} faults", several.len()),
    };
    errors.into_iter().fold(ApiError::new(reason, message), |error, one| {
        let place = format!("{}:{}:{}", one.place.file, one.place.line, one.place.column);
        let what = match &one.hint {
            Some(hint) => format!("{}\nhint: {hint}", one.message),
            None => one.message.clone(),
        };
        error.field(place, what)
    })
}

fn wire(one: &Diagnostic) -> v1::Diagnostic {
    let severity = match one.severity {
        Severity::Error => diagnostic::Severity::Error,
        Severity::Warning => diagnostic::Severity::Warning,
        Severity::Note => diagnostic::Severity::Note,
    };
    v1::Diagnostic {
        severity: severity.into(),
        code: one.code.replace('-', "_"),
        message: one.message.clone(),
        hint: one.hint.clone().unwrap_or_default(),
        path: one.place.file.clone(),
        line: one.place.line,
        column: one.place.column,
    }
}

/// The files that came with the sources.
struct Files {
    by_source: BTreeMap<String, Vec<FoundFile>>,
    /// Those that no pattern named so far: source and path.
    unnamed: Mutex<BTreeSet<(String, String)>>,
}

impl Files {
    /// Takes digests of what came along, and sizes of what was uploaded before.
    async fn find(api: &Api, sources: &[Source]) -> Result<Self, ApiError> {
        let mut by_source: BTreeMap<String, Vec<FoundFile>> = BTreeMap::new();
        let mut unnamed = BTreeSet::new();
        for source in sources {
            for file in &source.files {
                let (digest, bytes) = match &file.content {
                    Some(Content::Inline(bytes)) => (Digest::of(bytes), bytes.len() as u64),
                    Some(Content::Digest(text)) => {
                        let digest = super::api::named("files.digest", text)?;
                        (digest, size_of(api, digest).await?)
                    }
                    None => {
                        return Err(ApiError::bad_field(
                            "files.content",
                            format!("`{}` has none", file.path),
                        ));
                    }
                };
                unnamed.insert((source.path.clone(), file.path.clone()));
                let found =
                    FoundFile { path: file.path.clone(), digest, bytes, is_executable: file.executable };
                by_source.entry(source.path.clone()).or_default().push(found);
            }
        }
        Ok(Self { by_source, unnamed: Mutex::new(unnamed) })
    }

    /// A file that no pattern names would be kept for nothing, and shows that the client expands patterns otherwise.
    fn check_all_named(&self) -> Result<(), ApiError> {
        let unnamed = self.unnamed.lock().unwrap_or_else(PoisonError::into_inner);
        match unnamed.first() {
            Some((source, path)) => Err(ApiError::bad_field(
                "files.path",
                format!("`{path}` matches no pattern of `files` in `{source}`"),
            )),
            None => Ok(()),
        }
    }
}

async fn size_of(api: &Api, digest: Digest) -> Result<u64, ApiError> {
    match api.cluster.blob(digest).await {
        Ok(bytes) => Ok(bytes.len() as u64),
        Err(BlobMissing::Lost(digest)) => {
            let text = digest.to_string();
            Err(ApiError::new(Reason::BlobNotFound, format!("the cluster does not have file {text}"))
                .with("digest", text)
                .hint("upload it again"))
        }
        Err(error @ BlobMissing::Fault(..)) => Err(fault_of("blob", &error.to_string())),
    }
}

impl FileLookup for Files {
    fn find(&self, source: &str, glob: &str) -> Result<Vec<FoundFile>, String> {
        let files = self.by_source.get(source).into_iter().flatten();
        let found: Vec<FoundFile> = files.filter(|file| glob_matches(glob, &file.path)).cloned().collect();
        let mut unnamed = self.unnamed.lock().unwrap_or_else(PoisonError::into_inner);
        for file in &found {
            unnamed.remove(&(source.to_owned(), file.path.clone()));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_cut_out_of_its_source() {
        let text = "# head\nworkflow: a\n---\nworkflow: b\ntasks: {}\n--- \npool: c\n";
        assert_eq!(document_at(text, 2), "# head\nworkflow: a\n");
        assert_eq!(document_at(text, 4), "workflow: b\ntasks: {}\n");
        assert_eq!(document_at(text, 7), "pool: c\n");
        assert_eq!(document_at("workflow: a", 1), "workflow: a");
    }
}
