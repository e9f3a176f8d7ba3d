//! Owns `pilotlight pools`: one listing of a broker's pools.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::ops_client::{OpsClient, OpsOptions};
use super::pool_list::{PoolFilter, PoolList, PoolRow, columns};
use super::process;
use super::text::{printable, table};
use crate::config::Settings;

/// The arguments of `pilotlight pools`.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    #[command(flatten)]
    ops: OpsOptions,

    #[command(flatten)]
    filter: PoolFilter,

    /// List the pools of all brokers of the cluster
    #[arg(long)]
    all_brokers: bool,

    /// Print the broker's answer as it is, in JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn pools(settings: &Settings, options: &Options) -> anyhow::Result<ExitCode> {
    let mut client = OpsClient::new(&options.ops, settings)?;
    let target = options.filter.target(options.all_brokers);
    let answer = process::runtime()?.block_on(client.get(&target))?;
    if options.json {
        return Ok(process::print(&format!("{}\n", String::from_utf8_lossy(&answer).trim_end())));
    }
    let mut list: PoolList = serde_json::from_slice(&answer)
        .with_context(|| format!("{} has answered something else than a list of pools", client.url()))?;
    list.pools.sort_by(|one, other| {
        let names = (&one.deployment, &one.version).cmp(&(&other.deployment, &other.version));
        names.then(one.cpu.total_cmp(&other.cpu)).then(one.memory.total_cmp(&other.memory))
    });
    let lines = if std::io::stdout().is_terminal() {
        let rows: Vec<_> = list.pools.iter().map(PoolRow::shown_cells).collect();
        table(columns(options.all_brokers), &rows)
    } else {
        list.pools.iter().map(|pool| pool.cells(|seconds| seconds.to_string()).join("\t")).collect()
    };
    process::print(&lines.into_iter().map(|line| line + "\n").collect::<String>());
    if !list.missing.is_empty() {
        let missing: Vec<_> = list.missing.iter().map(|broker| printable(broker)).collect();
        process::note(&format!("these brokers have not answered: {}", missing.join(", ")));
    }
    Ok(ExitCode::SUCCESS)
}
