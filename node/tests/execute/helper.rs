//! The binary of the tests beside it: what `matins` is for supervisors and tasks, an executor as a process of
//! its own that can be killed and frozen, and a child that escapes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use matins_core::id::{Digest, NodeId};
use matins_node::execute::supervisor;
use matins_node::execute::{Blobs, Executor, ExecutorConfig, LeaderAddress, TaskEnvironment};

struct NoBlobs;

#[tonic::async_trait]
impl Blobs for NoBlobs {
    async fn fetch(&self, digest: Digest) -> std::io::Result<PathBuf> {
        Err(std::io::Error::other(format!("no blob {digest}")))
    }

    async fn store(&self, bytes: Vec<u8>) -> std::io::Result<Digest> {
        Ok(Digest::of(&bytes))
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next().unwrap_or_default();
    match verb.to_str() {
        Some("supervisor") => supervisor::main(arguments),
        Some("executor") => run_executor(arguments.map(|argument| argument.into_string().expect("UTF-8"))),
        // Leaves its process group and session, says its pid, and stays.
        Some("escape") => {
            rustix::process::setsid().expect("it is no group leader");
            let file = PathBuf::from(arguments.next().expect("a file for the pid"));
            let new = file.with_extension("new");
            std::fs::write(&new, std::process::id().to_string()).expect("it can be written");
            std::fs::rename(&new, &file).expect("it can be renamed");
            loop {
                std::thread::park();
            }
        }
        Some(_) | None => ExitCode::from(2),
    }
}

/// `executor DIR LEADER`
fn run_executor(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let dir = PathBuf::from(arguments.next().expect("a folder"));
    let address = arguments.next().expect("an address");
    let leader = LeaderAddress { address, cluster: 0 };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let config = ExecutorConfig {
            dir,
            node: NodeId(1),
            name: "helper".to_owned(),
            slots: 4,
            labels: BTreeMap::new(),
            address: String::new(),
            level: 1,
            environment: TaskEnvironment::default(),
            program: None,
            cgroup: None,
        };
        let (_leads, leader) = tokio::sync::watch::channel(Some(leader));
        let _executor = Executor::spawn(config, leader, Arc::new(NoBlobs)).expect("the folder can be used");
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}
