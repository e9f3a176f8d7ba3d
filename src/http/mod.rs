//! Owns the requests of controllers and supervisors: their connections, routes and dialects, and the only statuses they see.
//!
//! ```text
//! connection ─► request_loop ─► streamed ─► routes ─► dialect, receipts ─► replies ─► state ─► peers
//!      └─────────────┴─► h1 ─► response, problem, admission
//! ```
//! Imports follow the arrows. A module may use any module further along them.

mod admission;
mod browser_page;
mod client_addr;
mod connection;
mod dialect;
#[cfg(fuzzing)]
pub mod fuzz;
mod h1;
mod health;
mod park;
mod peer_route;
mod peer_tls;
mod peers;
mod problem;
mod receipts;
mod replies;
mod request_loop;
mod response;
mod routes;
mod run_problem;
mod run_request;
mod shared_names;
mod state;
mod streamed;

pub use admission::Admission;
pub use connection::serve;
pub use dialect::{Message, MessageError};
pub use peer_tls::{OwnCertificate, client_config};
pub use problem::Problem;
pub use response::{HttpResponse, ResponseBody};
pub use state::{HttpState, RequestLimits};
