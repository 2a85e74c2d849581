//! The table of all figures: plain for a terminal, Markdown for documents, JSON for programs. One source for all three.

use serde_json::{Value, json};

use crate::figure::{Figure, Verdict};
use crate::trouble::Trouble;

/// A workload on one cluster, and what came of it.
pub(crate) struct Row {
    pub(crate) workload: &'static str,
    /// 0: it wanted none.
    pub(crate) nodes: usize,
    pub(crate) outcome: Result<Vec<Figure>, Trouble>,
}

const HEAD: [&str; 7] =
    ["workload", "nodes", "what", "measured", "aim on three nodes", "verdict", "best rival"];

impl Row {
    /// Whether it did what it should, however long it took.
    pub(crate) fn went_well(&self) -> bool {
        self.outcome.is_ok()
    }

    fn cells(&self) -> Vec<[String; 7]> {
        let nodes = if self.nodes == 0 { String::new() } else { self.nodes.to_string() };
        let cells = |what: String, measured, aim, verdict, rival| {
            [self.workload.to_owned(), nodes.clone(), what, measured, aim, verdict, rival]
        };
        match &self.outcome {
            Ok(figures) => {
                let row = |it: &Figure| {
                    cells(it.what.clone(), it.value_text(), it.aim_text(), verdict(it), it.rival.to_owned())
                };
                figures.iter().map(row).collect()
            }
            Err(trouble) => {
                vec![cells(
                    format!("FAILED: {trouble}"),
                    String::new(),
                    String::new(),
                    String::new(),
                    String::new(),
                )]
            }
        }
    }

    fn json(&self) -> Vec<Value> {
        match &self.outcome {
            Ok(figures) => figures.iter().map(|figure| self.figure_json(figure)).collect(),
            Err(trouble) => {
                vec![json!({ "workload": self.workload, "nodes": self.nodes, "failed": trouble.to_string() })]
            }
        }
    }

    fn figure_json(&self, figure: &Figure) -> Value {
        let mut value = json!({
            "workload": self.workload,
            "nodes": self.nodes,
            "what": figure.what,
            "value": figure.value,
            "unit": figure.unit.text(),
        });
        if let Some(verdict) = figure.verdict() {
            value["aim"] = json!(figure.aim);
            value["met"] = json!(verdict == Verdict::Met);
            if let Verdict::MissedBy(factor) = verdict {
                value["missed_by"] = json!(factor);
            }
        }
        if !figure.rival.is_empty() {
            value["rival"] = json!(figure.rival);
        }
        value
    }
}

fn verdict(figure: &Figure) -> String {
    match figure.verdict() {
        None => String::new(),
        Some(Verdict::Met) => "met".to_owned(),
        Some(Verdict::MissedBy(factor)) => format!("missed by {factor:.1}x"),
    }
}

fn all_cells(rows: &[Row]) -> impl Iterator<Item = [String; 7]> {
    [HEAD.map(str::to_owned)].into_iter().chain(rows.iter().flat_map(Row::cells))
}

/// Columns as wide as they must be.
pub(crate) fn plain(rows: &[Row]) -> String {
    let cells: Vec<_> = all_cells(rows).collect();
    let width = |at: usize| cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    // A failure is as long as it is, and must not push everything else aside.
    let widths: Vec<usize> = (0..HEAD.len()).map(|at| width(at).min(44)).collect();
    let line = |row: &[String; 7]| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    cells.iter().map(line).collect()
}

pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut lines = all_cells(rows).map(|row| format!("| {} |\n", row.join(" | ")));
    let head = lines.next().unwrap_or_default();
    head + "|---|---|---|---|---|---|---|\n" + &lines.collect::<String>()
}

pub(crate) fn json(rows: &[Row]) -> String {
    let all: Vec<Value> = rows.iter().flat_map(Row::json).collect();
    format!("{:#}\n", json!({ "cores": cores(), "figures": all }))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;

    fn rows() -> Vec<Row> {
        let figure = Figure::new("total", 0.5, Unit::Seconds).aim(0.25).rival("0.94 s (Restate)");
        vec![
            Row { workload: "chain", nodes: 3, outcome: Ok(vec![figure]) },
            Row { workload: "idle", nodes: 1, outcome: Err(Trouble("no node".into())) },
        ]
    }

    #[test]
    fn a_missed_aim_and_a_failure_are_told_in_each_form() {
        assert!(plain(&rows()).contains("0.500 s   0.250 s             missed by 2.0x  0.94 s (Restate)"));
        assert!(plain(&rows()).contains("FAILED: no node"));
        assert!(markdown(&rows()).contains("| chain | 3 | total | 0.500 s | 0.250 s | missed by 2.0x |"));
        let json: Value = serde_json::from_str(&json(&rows())).unwrap();
        assert_eq!(json["figures"][0]["missed_by"], 2.0);
        assert_eq!(json["figures"][1]["failed"], "no node");
    }
}
