//! Owns the settings: each is defined once, and is a flag, an environment variable and a TOML key.

mod bounds;
mod endpoint;
mod environment;
mod error;
mod file;
mod origin;
mod parse;
mod reload;
mod render;
mod settings;
mod validate;

pub use endpoint::{Endpoint, ListenAddress};
pub use environment::misspelt_variables;
pub use error::ConfigError;
pub use origin::parse as parse_origin;
pub use parse::{ParsedSettings, SettingSource, parse};
pub use reload::changes_needing_restart;
pub use render::{default_toml, environment_file, values};
pub use settings::{
    AccessSettings, CAN_PROVE, ClusterSettings, DeliverySettings, FunctionPool, FunctionSettings,
    FunctionTable, LATEST, LimitSettings, ListenerSettings, LogFormat, MessageCheck, PickOrder,
    ProcessSettings, ProofLevel, ProxySettings, RecordSettings, ReplySettings, Settings, TlsSettings,
    WaitingSettings,
};
pub use validate::Listeners;

#[cfg(test)]
mod tests;
