//! Owns the checks that concern several settings at once: listeners must differ, and open ones must be guarded.

use std::net::{IpAddr, Ipv4Addr};

use super::endpoint::{self, Endpoint};
use super::error::ConfigError;
use super::settings::Settings;

/// Where to listen: the addresses of the settings, resolved on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listeners {
    /// For controllers, and for supervisors unless `dispatch` has any.
    pub public: Vec<Endpoint>,
    /// For supervisors only; may be empty.
    pub dispatch: Vec<Endpoint>,
    /// For operators.
    pub ops: Vec<Endpoint>,
}

impl Listeners {
    /// Each listener's endpoints with its flag.
    pub fn by_flag(&self) -> [(&'static str, &[Endpoint]); 3] {
        [("listen", &self.public), ("dispatch-listen", &self.dispatch), ("ops-listen", &self.ops)]
    }

    /// Each endpoint with its flag.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Endpoint)> {
        self.by_flag().into_iter().flat_map(|(flag, endpoints)| endpoints.iter().map(move |one| (flag, one)))
    }
}

impl Settings {
    /// Refuses settings that are out of range or contradict each other, and resolves where to listen.
    pub fn validate(&self) -> Result<Listeners, ConfigError> {
        let Self {
            config: _,
            listeners: _,
            proxies,
            access,
            tls,
            waiting,
            delivery,
            replies,
            functions,
            limits,
            cluster,
            records,
            process,
        } = self;
        waiting.validate()?;
        delivery.validate()?;
        replies.validate()?;
        functions.validate()?;
        limits.validate()?;
        cluster.validate()?;
        records.validate()?;
        process.validate()?;
        proxies.validate()?;
        access.validate()?;
        tls.validate()?;
        let listeners = self.resolve_listeners()?;
        self.check_exposure(&listeners)?;
        Ok(listeners)
    }

    fn resolve_listeners(&self) -> Result<Listeners, ConfigError> {
        let resolve = |flag: &str, addresses: &[_]| {
            let endpoints = endpoint::resolve_all(addresses);
            endpoints.map_err(|reason| ConfigError::invalid(format!("--{flag} {reason}")))
        };
        let listeners = Listeners {
            public: resolve("listen", &self.listeners.listen)?,
            dispatch: resolve("dispatch-listen", &self.listeners.dispatch_listen)?,
            ops: resolve("ops-listen", &self.listeners.ops_listen)?,
        };
        if let Some(unix) = listeners.public.iter().find(|endpoint| endpoint.is_unix()) {
            return Err(ConfigError::invalid(format!(
                "--listen {unix}: controllers must wait on TCP, which shows whether a run arrived; only --dispatch-listen and \
                 --ops-listen can be Unix sockets"
            )));
        }
        let all: Vec<_> = listeners.all().collect();
        for (index, (flag, one)) in all.iter().enumerate() {
            for (other_flag, other) in &all[index + 1..] {
                if flag != other_flag && one.conflicts_with(other) {
                    return Err(ConfigError::invalid(format!(
                        "--{flag} {one} and --{other_flag} {other} are the same address; each listener needs its own"
                    )));
                }
            }
        }
        Ok(listeners)
    }

    /// Refuses a listener that other machines can reach and that admits everyone.
    fn check_exposure(&self, listeners: &Listeners) -> Result<(), ConfigError> {
        let Self { access, tls, .. } = self;
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        if let Some(unix) = listeners.dispatch.iter().find(|endpoint| endpoint.is_unix())
            && !access.allow_dispatch.is_empty()
            && !access.allow_dispatch.iter().any(|net| net.contains(&loopback))
        {
            return Err(ConfigError::invalid(format!(
                "--dispatch-listen {unix}: clients of a Unix socket count as {loopback}, which --allow-dispatch does not \
                 include; add it"
            )));
        }
        let has_client_ca = tls.tls_client_ca.is_some();
        let dispatch = match listeners.dispatch.as_slice() {
            [] => ("--listen", listeners.public.as_slice()),
            own => ("--dispatch-listen", own),
        };
        let roles = [
            (
                ("--listen", listeners.public.as_slice()),
                "take runs",
                has_client_ca || access.require_token || !access.allow_poll.is_empty(),
                "--allow-poll, --require-token with --token-secret-file, or --tls-client-ca",
            ),
            (
                dispatch,
                "run code in warm controllers",
                has_client_ca || access.dispatch_token_file.is_some() || !access.allow_dispatch.is_empty(),
                "--allow-dispatch, --dispatch-token-file, or --tls-client-ca",
            ),
            (
                ("--ops-listen", listeners.ops.as_slice()),
                "read every key and retire controllers",
                access.ops_token_file.is_some(),
                "--ops-token-file",
            ),
        ];
        for ((flag, endpoints), harm, is_guarded, guards) in roles {
            let reachable = endpoints.iter().find(|endpoint| !endpoint.is_local());
            if let Some(address) = reachable.filter(|_| !is_guarded && !access.insecure_no_auth) {
                return Err(ConfigError::invalid(format!(
                    "{flag} {address} is not a loopback address, and everyone who can reach it could {harm}. Set {guards}; \
                     or bind 127.0.0.1; or, if only trusted machines can reach the network, set --insecure-no-auth"
                )));
            }
        }
        Ok(())
    }
}
