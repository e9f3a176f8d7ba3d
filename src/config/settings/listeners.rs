//! Owns the settings of listeners: where controllers, supervisors and operators connect.

use clap::Args;

use crate::config::endpoint::{self, ListenAddress};

/// Where the broker listens.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Listeners")]
pub struct ListenerSettings {
    /// Addresses for controllers and supervisors; `:7070` is every address of the machine, a host name is each address that it resolves to
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',', value_parser = endpoint::parse, default_value = "127.0.0.1:7070")]
    pub listen: Vec<ListenAddress>,

    /// Addresses for POSTs, which are then served only here; `unix:/path` is a Unix socket (mode 0660) [default: POSTs are served on --listen]
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',', value_parser = endpoint::parse)]
    pub dispatch_listen: Vec<ListenAddress>,

    /// Addresses for operators: health, metrics, pools, runs and the console; `unix:/path` is a Unix socket (mode 0660)
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',', value_parser = endpoint::parse, default_value = "127.0.0.1:7071")]
    pub ops_listen: Vec<ListenAddress>,

    /// Serve `GET /livez` on the public listeners as well, for the health checks of load balancers
    #[arg(long)]
    pub public_livez: bool,
}
