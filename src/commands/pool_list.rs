//! Owns the list of pools as a broker's operators' address gives it.

use clap::Args;
use serde::Deserialize;

use super::text::{Column, age, printable};

/// Which pools to list.
#[derive(Debug, Clone, Args)]
pub(super) struct PoolFilter {
    /// Only the pools of this deployment
    #[arg(long, value_name = "ID")]
    deployment: Option<String>,

    /// Only the pools of this version
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,

    /// Only the pools of machines with so many CPUs
    #[arg(long, value_name = "N")]
    cpu: Option<String>,

    /// Only the pools of machines with so much memory, in GB
    #[arg(long, value_name = "N")]
    memory: Option<String>,
}

impl PoolFilter {
    /// The request's target.
    pub(super) fn target(&self, of_all_brokers: bool) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let Self { deployment, version, cpu, memory } = self;
        for (name, value) in
            [("deployment", deployment), ("version", version), ("cpu", cpu), ("memory", memory)]
        {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        if of_all_brokers {
            query.append_pair("cluster", "true");
        }
        let query = query.finish();
        if query.is_empty() { "/pools".to_owned() } else { format!("/pools?{query}") }
    }
}

/// The answer of `/pools`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct PoolList {
    pub(super) pools: Vec<PoolRow>,
    /// Brokers of the cluster that did not answer in time.
    #[serde(default)]
    pub(super) missing: Vec<String>,
}

/// One pool.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PoolRow {
    pub(super) deployment: String,
    pub(super) version: String,
    pub(super) cpu: f64,
    pub(super) memory: f64,
    pub(super) waiters: u64,
    pub(super) oldest_seconds: f64,
    pub(super) newest_seconds: f64,
    /// Only in a list of all brokers.
    pub(super) broker: Option<String>,
}

const COLUMNS: [Column; 8] = [
    Column { name: "DEPLOYMENT", is_figure: false },
    Column { name: "VERSION", is_figure: false },
    Column { name: "CPU", is_figure: true },
    Column { name: "MEMORY", is_figure: true },
    Column { name: "WAITERS", is_figure: true },
    Column { name: "OLDEST", is_figure: true },
    Column { name: "NEWEST", is_figure: true },
    Column { name: "BROKER", is_figure: false },
];

/// The columns of a table of pools.
pub(super) fn columns(with_broker: bool) -> &'static [Column] {
    if with_broker { &COLUMNS } else { &COLUMNS[..COLUMNS.len() - 1] }
}

impl PoolRow {
    /// The cells of a table.
    pub(super) fn cells(&self, duration: impl Fn(f64) -> String) -> Vec<String> {
        let mut cells = vec![
            printable(&self.deployment),
            printable(&self.version),
            self.cpu.to_string(),
            self.memory.to_string(),
            self.waiters.to_string(),
            duration(self.oldest_seconds),
            duration(self.newest_seconds),
        ];
        cells.extend(self.broker.as_deref().map(printable));
        cells
    }

    /// The cells for people.
    pub(super) fn shown_cells(&self) -> Vec<String> {
        self.cells(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_written_so_that_the_broker_reads_the_same() {
        let filter = PoolFilter {
            deployment: Some("a&b c".to_owned()),
            version: None,
            cpu: Some("0.5".to_owned()),
            memory: None,
        };
        assert_eq!(filter.target(false), "/pools?deployment=a%26b+c&cpu=0.5");
        let all = PoolFilter { deployment: None, version: None, cpu: None, memory: None };
        assert_eq!(
            (all.target(false), all.target(true)),
            ("/pools".to_owned(), "/pools?cluster=true".to_owned())
        );
    }
}
