//! Temporary.
use std::time::{Duration, Instant};
use matins_client::{Client, Limits};
use matins_proto::v1::*;
use super::{Site, Trouble, Workload};
use crate::report::Report;
const FLOW: &str = r#"
workflow: trial
concurrency: { max_active_runs: 100, on_full: queue }
params: { pause: { type: string, default: "0" } }
tasks:
  work: { run: 'sleep "$PAUSE"', env: { PAUSE: "{{ params.pause }}" } }
"#;
#[derive(Default)]
pub(crate) struct Trial { runs: Vec<String>, asked: u64 }
fn bad(e: impl std::fmt::Display) -> Trouble { Trouble(format!("trial: {e}")) }
#[tonic::async_trait]
impl Workload for Trial {
    fn name(&self) -> &'static str { "trial" }
    async fn set_up(&mut self, site: &Site) -> Result<(), Trouble> {
        let c = Client::new(&site.endpoints, Limits::default()).map_err(bad)?;
        let src = Source { path: "t.matins.yaml".into(), text: FLOW.into(), ..Default::default() };
        c.call(ApplyWorkflowsRequest { sources: vec![src], ..Default::default() }).await.map_err(bad)?; Ok(())
    }
    async fn drive(&mut self, site: &Site, until: Instant) -> Result<(), Trouble> {
        let c = Client::new(&site.endpoints, Limits { attempt_max: Duration::from_secs(2), ..Limits::default() }).map_err(bad)?;
        while Instant::now() < until {
            self.asked += 1;
            let pause = ["0.2", "3"][(self.asked % 2) as usize];
            let params = Some(matins_proto::Json::from(serde_json::json!({ "pause": pause })));
            if let Ok(a) = c.call(StartRunRequest { workflow: "trial".into(), params, ..Default::default() }).await { self.runs.push(a.run_id); }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }
    async fn settle(&mut self, site: &Site, within: Duration, report: &mut Report) -> Result<(), Trouble> {
        let c = Client::new(&site.endpoints, Limits::default()).map_err(bad)?;
        for chunk in self.runs.chunks(50) {
        let a = c.wait(chunk.to_vec(), Some(within)).await.map_err(bad)?;
        if !a.done { report.fail("I15: runs do not end", "x"); }
        for run in a.runs { if run.state() != run::State::Success { report.fail(format!("{} is {:?}", run.id, run.state()), "x"); } }
        }
        Ok(())
    }
    async fn check(&mut self, _: &Site, report: &mut Report) -> Result<(), Trouble> {
        report.needs("runs", self.runs.len() as u64, 10); report.figure("asked", self.asked); Ok(())
    }
}
