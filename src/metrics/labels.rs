//! Owns the labels: closed enumerations, so that every value is exported from the first scrape on.

use std::marker::PhantomData;

use prometheus::core::{MetricVec, MetricVecBuilder};

use crate::model::{
    DispatchKind, DispatchOutcome, MissReason, PollEnd, Proof, ReplyOutcome, Transport, Verdict,
};

/// A label set with finitely many values.
pub trait Label: Copy {
    /// Every value.
    fn all() -> Vec<Self>;
    /// Its index in [`Label::all`].
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

/// No label: there is one metric.
impl Label for () {
    fn all() -> Vec<Self> {
        vec![()]
    }

    fn index(self) -> usize {
        0
    }

    fn values(self) -> Vec<&'static str> {
        Vec::new()
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

is_label! { PollEnd, Verdict, Proof, DispatchKind, Transport, ReplyOutcome }

label! {
    /// The listener of a connection.
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
        /// Bytes arrived after a held poll.
        Pipelined = "pipelined",
        /// The peer's address is on no list.
        Address = "address",
        /// The limit of open connections is reached, and none of them is silent.
        Connections = "connections",
        /// The limit of open connections per address is reached.
        Source = "source",
        /// It was silent, and closed to make room for a new connection.
        Silent = "silent",
        /// Another poll with its controller's name replaced it, as happens repeatedly.
        SharedName = "shared_name",
        /// The TLS handshake failed or took too long.
        Tls = "tls",
        /// A known proxy sent no PROXY protocol header, or a malformed one, or not in time.
        ProxyProtocol = "proxy_protocol",
    }
}

label! {
    /// Why a request was not authorized.
    AuthFailure {
        /// The address is not on the list.
        Address = "address",
        /// There is a list of addresses, and a trusted proxy did not name the client's.
        NoAddress = "no_address",
        /// A deployment token is required, and there was none.
        NoToken = "no_token",
        /// The deployment token is invalid.
        BadToken = "bad_token",
        /// The deployment token has expired.
        ExpiredToken = "expired_token",
        /// The deployment token is for another deployment or version.
        OtherDeployment = "other_deployment",
        /// A controller's credential on a dispatch, or the reverse.
        WrongRole = "wrong_role",
        /// A bearer token is required, and there was none.
        NoBearer = "no_bearer",
        /// The bearer token is unknown.
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
        /// `POST /2015-03-31/functions/…/invocations` and `POST /2021-11-15/functions/…/response-streaming-invocations`.
        Invoke = "invoke",
        /// `GET /v1/pools/…`, when it was answered at once.
        NativePoll = "native_poll",
        /// `POST /v1/runs/…`, other than a reply.
        Receipt = "receipt",
        /// `POST /v1/runs/…/reply` and `…/error`.
        Reply = "reply",
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
    /// Whether a connection uses TLS.
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
    /// Until which byte of a reply a time runs.
    ReplyByte {
        /// The first one.
        First = "first",
        /// The last one.
        Last = "last",
    }
}

label! {
    /// How a reload of the settings ended.
    Reload {
        /// They are in force.
        Done = "done",
        /// They are invalid; the old ones stay in force.
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
    fn an_index_is_that_of_the_list() {
        fn check<L: Label>() {
            for (index, label) in L::all().into_iter().enumerate() {
                assert_eq!(label.index(), index);
            }
        }
        check::<PollEnd>();
        check::<DispatchOutcome>();
        check::<(Route, CodeClass)>();
        check::<(Listener, Tls)>();
    }
}
