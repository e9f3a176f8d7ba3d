//! Owns the labels: closed enums, each value known before the first scrape.

use std::marker::PhantomData;

use prometheus::core::{MetricVec, MetricVecBuilder};

use crate::model::{DispatchKind, DispatchOutcome, MissReason, PollEnd, Proof, Verdict};

/// A label set with finitely many values.
pub trait Label: Copy {
    /// Every value.
    fn all() -> Vec<Self>;
    /// Its place in [`Label::all`].
    fn index(self) -> usize;
    /// The text of each label, in the order of the metric's label names.
    fn values(self) -> Vec<&'static str>;
}

/// One metric per label value, found by index rather than by hashing text.
pub(super) struct Family<M, L> {
    members: Box<[M]>,
    label: PhantomData<fn(L)>,
}

impl<M, L: Label> Family<M, L> {
    pub(super) fn new<B: MetricVecBuilder<M = M>>(vec: &MetricVec<B>) -> Self
    where
        M: prometheus::core::Metric,
    {
        let members = L::all().into_iter().map(|label| vec.with_label_values(&label.values())).collect();
        Self { members, label: PhantomData }
    }

    pub(super) fn of(&self, label: L) -> &M {
        &self.members[label.index()]
    }
}

/// A closed enumeration that is a label set by itself.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident $values:tt) => {
        crate::model::closed_enum! { $(#[$doc])* $name $values }
        crate::metrics::labels::is_label! { $name }
    };
}

/// Makes closed enumerations label sets.
macro_rules! is_label {
    ($($name:ty),+ $(,)?) => { $(
        impl crate::metrics::Label for $name {
            fn all() -> Vec<Self> { Self::ALL.to_vec() }
            fn index(self) -> usize { self as usize }
            fn values(self) -> Vec<&'static str> { vec![self.text()] }
        }
    )+ };
}

pub(super) use {is_label, label};

is_label! { PollEnd, Verdict, Proof, DispatchKind }

label! {
    /// Where a connection came in.
    Listener {
        /// Controllers, and supervisors unless they have a listener of their own.
        Public = "public",
        /// Supervisors only.
        Dispatch = "dispatch",
        /// Operators.
        Ops = "ops",
    }
}

label! {
    /// Why a connection was not served.
    RejectReason {
        /// The process or the system is out of file descriptors.
        NoFds = "no_fds",
        /// Accepting failed otherwise.
        AcceptFailed = "accept_failed",
        /// Bytes followed a held poll.
        Pipelined = "pipelined",
        /// No list has the peer's address.
        Address = "address",
        /// As many connections as may be are open, and none of them is silent.
        Connections = "connections",
        /// As many connections of this address as may be are open.
        Source = "source",
        /// It was silent when room was needed.
        Silent = "silent",
        /// Another poll came with its controller's name, as it does again and again.
        SharedName = "shared_name",
        /// The TLS handshake failed or took too long.
        Tls = "tls",
        /// A known proxy sent no PROXY protocol header, or a malformed one, or not in time.
        ProxyProtocol = "proxy_protocol",
    }
}

label! {
    /// Why somebody was not let in.
    AuthFailure {
        /// The address is not on the list.
        Address = "address",
        /// A known proxy did not say whose request it is, and there is a list.
        NoAddress = "no_address",
        /// A deployment token is needed, and there was none.
        NoToken = "no_token",
        /// The deployment token is not one that this broker believes.
        BadToken = "bad_token",
        /// The deployment token's time is over.
        ExpiredToken = "expired_token",
        /// The deployment token belongs to another deployment or version.
        OtherDeployment = "other_deployment",
        /// A controller's credential on a dispatch, or the reverse.
        WrongRole = "wrong_role",
        /// A bearer is needed, and there was none.
        NoBearer = "no_bearer",
        /// The bearer is not one that this broker knows.
        BadBearer = "bad_bearer",
    }
}

label! {
    /// Which route a request took.
    Route {
        /// `GET /connect`.
        Connect = "connect",
        /// `POST /warm-start`.
        Dispatch = "dispatch",
        /// `GET /warm-start`, when it was answered at once.
        Poll = "poll",
        /// `POST /v1/pools/…`.
        NativeDispatch = "native_dispatch",
        /// `GET /v1/pools/…`, when it was answered at once.
        NativePoll = "native_poll",
        /// Any route of the ops listener.
        Ops = "ops",
        /// No route.
        Other = "other",
    }
}

label! {
    /// The first digit of a status.
    CodeClass {
        /// 1xx and 3xx.
        Other = "other",
        /// 2xx.
        Ok = "2xx",
        /// 4xx.
        Client = "4xx",
        /// 5xx.
        Server = "5xx",
    }
}

impl CodeClass {
    pub(super) const fn of(status: u16) -> Self {
        match status {
            200..=299 => Self::Ok,
            400..=499 => Self::Client,
            500..=599 => Self::Server,
            _ => Self::Other,
        }
    }
}

label! {
    /// Whether a connection speaks TLS.
    Tls {
        /// It does not.
        False = "false",
        /// It does.
        True = "true",
    }
}

impl Label for (Listener, Tls) {
    fn all() -> Vec<Self> {
        Listener::all()
            .into_iter()
            .flat_map(|listener| Tls::all().into_iter().map(move |tls| (listener, tls)))
            .collect()
    }

    fn index(self) -> usize {
        self.0 as usize * 2 + self.1 as usize
    }

    fn values(self) -> Vec<&'static str> {
        vec![self.0.text(), self.1.text()]
    }
}

label! {
    /// How reading the settings again ended.
    Reload {
        /// They are in force.
        Done = "done",
        /// They are wrong; the old ones stay in force.
        Failed = "failed",
    }
}

const CODE_CLASSES: usize = 4;

impl Label for (Route, CodeClass) {
    fn all() -> Vec<Self> {
        Route::all()
            .into_iter()
            .flat_map(|route| CodeClass::all().into_iter().map(move |code| (route, code)))
            .collect()
    }

    fn index(self) -> usize {
        self.0 as usize * CODE_CLASSES + self.1 as usize
    }

    fn values(self) -> Vec<&'static str> {
        vec![self.0.text(), self.1.text()]
    }
}

impl Label for DispatchOutcome {
    fn all() -> Vec<Self> {
        let misses = MissReason::ALL.iter().copied().map(Self::Miss);
        [Self::Hit, Self::Refused, Self::Aborted].into_iter().chain(misses).collect()
    }

    fn index(self) -> usize {
        match self {
            Self::Hit => 0,
            Self::Refused => 1,
            Self::Aborted => 2,
            Self::Miss(miss) => 3 + miss as usize,
        }
    }

    fn values(self) -> Vec<&'static str> {
        let reason = match self {
            Self::Miss(miss) => miss.text(),
            Self::Hit | Self::Refused | Self::Aborted => "none",
        };
        vec![self.kind().text(), reason]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_the_place_in_the_list() {
        fn check<L: Label>() {
            for (place, label) in L::all().into_iter().enumerate() {
                assert_eq!(label.index(), place);
            }
        }
        check::<PollEnd>();
        check::<DispatchOutcome>();
        check::<(Route, CodeClass)>();
        check::<(Listener, Tls)>();
    }
}
