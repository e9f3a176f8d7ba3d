//! Owns the list of settings: one struct per help heading, and what all settings have in common.

mod access;
mod cluster;
mod delivery;
mod functions;
mod limits;
mod listeners;
mod process;
mod proxies;
mod records;
mod replies;
mod tls;
mod waiting;

use std::path::PathBuf;

use clap::{Arg, Args};

pub use access::AccessSettings;
pub use cluster::ClusterSettings;
pub use delivery::{CAN_PROVE, DeliverySettings, MessageCheck, PickOrder, ProofLevel};
pub use functions::{FunctionPool, FunctionSettings, FunctionTable, LATEST};
pub use limits::LimitSettings;
pub use listeners::ListenerSettings;
pub use process::{LogFormat, ProcessSettings};
pub use proxies::ProxySettings;
pub use records::RecordSettings;
pub use replies::ReplySettings;
pub use tls::TlsSettings;
pub use waiting::WaitingSettings;

/// Every setting, grouped by subject.
#[derive(Debug, Clone, Args)]
#[command(mut_args = as_setting)]
pub struct Settings {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE", help_heading = "Configuration file")]
    pub config: Option<PathBuf>,

    /// Where the broker listens.
    #[command(flatten)]
    pub listeners: ListenerSettings,

    /// Proxies in front of the broker.
    #[command(flatten)]
    pub proxies: ProxySettings,

    /// Who may poll, dispatch and operate.
    #[command(flatten)]
    pub access: AccessSettings,

    /// Certificates and keys.
    #[command(flatten)]
    pub tls: TlsSettings,

    /// Controllers that wait for a run.
    #[command(flatten)]
    pub waiting: WaitingSettings,

    /// How a run is handed to a controller.
    #[command(flatten)]
    pub delivery: DeliverySettings,

    /// Callers that wait for the answer of their run's worker.
    #[command(flatten)]
    pub replies: ReplySettings,

    /// Functions that are called through AWS Lambda's Invoke API.
    #[command(flatten)]
    pub functions: FunctionSettings,

    /// Sizes, counts and rates beyond which the broker refuses.
    #[command(flatten)]
    pub limits: LimitSettings,

    /// Several brokers that dispatch as one.
    #[command(flatten)]
    pub cluster: ClusterSettings,

    /// The history and traces of dispatches.
    #[command(flatten)]
    pub records: RecordSettings,

    /// The process itself.
    #[command(flatten)]
    pub process: ProcessSettings,
}

/// Every setting can follow any subcommand, and has an environment variable with the name of its flag.
fn as_setting(arg: Arg) -> Arg {
    let variable = format!("PILOTLIGHT_{}", arg.get_id().as_str().to_uppercase());
    arg.global(true).env(variable).hide_env(true)
}
