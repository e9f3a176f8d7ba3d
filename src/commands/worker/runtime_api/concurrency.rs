//! Owns how many events a program takes at a time.

use std::path::Path;

use crate::commands::worker::program::CommandSpec;

/// The variable by which a runtime knows it.
const VARIABLE: &str = "AWS_LAMBDA_MAX_CONCURRENCY";
/// The most events at a time.
const MAX: u16 = 1024;
/// Programs that run functions in Node. npm's runtime client is `aws-lambda-ric`; those of Python and Ruby have other names.
const NODE: [&str; 5] = ["node", "nodejs", "npx", "npm", "aws-lambda-ric"];
/// Node in the base images of AWS, whose entry point has the same name for all languages.
const NODE_OF_IMAGES: &str = "/var/lang/bin/node";
const ENTRY_POINTS: [&str; 2] = ["lambda-entrypoint.sh", "bootstrap"];

/// How many events a program takes at a time: as many as `AWS_LAMBDA_MAX_CONCURRENCY` says, one without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands::worker) struct Concurrency {
    pub(in crate::commands::worker) lanes: u16,
    /// Whether the program must not see the variable.
    is_hidden: bool,
}

impl Concurrency {
    /// As the worker's environment says. What it cannot be is logged.
    pub(in crate::commands::worker) fn of(command: &CommandSpec) -> Self {
        let Some(value) = std::env::var_os(VARIABLE) else { return Self { lanes: 1, is_hidden: false } };
        let execution = std::env::var_os("AWS_EXECUTION_ENV").unwrap_or_default();
        let is_node = is_node(command, &execution.to_string_lossy());
        let lanes =
            value.to_str().and_then(|text| text.parse().ok()).filter(|lanes| (1..=MAX).contains(lanes));
        match lanes {
            Some(lanes) if !is_node => Self { lanes, is_hidden: false },
            Some(1) => Self { lanes: 1, is_hidden: true },
            Some(_) => {
                tracing::warn!(
                    "{VARIABLE} is taken out of the program's environment: the runtime of Node would ask for events \
                     before it has answered; use --slots"
                );
                Self { lanes: 1, is_hidden: true }
            }
            None => {
                tracing::warn!(
                    "{VARIABLE} is no number from 1 to {MAX}: the program gets one event at a time"
                );
                Self { lanes: 1, is_hidden: true }
            }
        }
    }

    /// Hides the variable from a program, if it has to be.
    pub(super) fn apply(self, command: &mut CommandSpec) {
        if self.is_hidden {
            command.set_variable(VARIABLE, None);
        }
    }
}

/// Whether the command runs Node: one of its words names it, the environment does, or an image that has it.
fn is_node(command: &CommandSpec, execution: &str) -> bool {
    let arguments = command.arguments().iter().map(|word| word.to_string_lossy().into_owned());
    let names = |word: &str, names: &[&str]| {
        let name = Path::new(word).file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| names.contains(&name.as_str()))
    };
    let program = command.program().to_string_lossy();
    let is_image = names(&program, &ENTRY_POINTS) && Path::new(NODE_OF_IMAGES).exists();
    is_image
        || execution.starts_with("AWS_Lambda_nodejs")
        || names(&program, &NODE)
        // `sh -c 'exec node …'` has several words in one.
        || arguments.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).any(|word| names(&word, &NODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_known_by_the_words_of_the_command_or_by_the_environment() {
        let is_node = |words: &[&str], execution| {
            let mut command = vec!["/bin/sh".into()];
            command.extend(words.iter().map(Into::into));
            is_node(&CommandSpec::new(&command, String::new()).unwrap(), execution)
        };
        assert!(is_node(&["-c", "exec /usr/bin/node index.js"], ""));
        assert!(is_node(&["node_modules/.bin/aws-lambda-ric", "app.handler"], ""));
        assert!(is_node(&["app.handler"], "AWS_Lambda_nodejs22.x"));
        assert!(!is_node(&["-m", "awslambdaric", "node.handler"], "AWS_Lambda_python3.12"));
    }
}
