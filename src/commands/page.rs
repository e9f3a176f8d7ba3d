//! Owns what is written for other programs from the flags' definitions: the manual page, completions for shells.

use clap::Command;
use clap_complete::Shell;

/// The manual page: all commands and settings in one, as they fit on a few screens.
pub(super) fn manual(command: &Command) -> anyhow::Result<String> {
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    man.render(&mut page)?;
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let text = format!(".SH \"PILOTLIGHT {}\"\n{about}.\n", command.get_name().to_uppercase());
        page.extend_from_slice(text.as_bytes());
        for own in command.get_arguments().filter(|argument| !argument.is_global_set()) {
            let name =
                own.get_long().map_or_else(|| own.get_id().to_string(), |long| format!("\\-\\-{long}"));
            let help = own.get_help().map(ToString::to_string).unwrap_or_default();
            page.extend_from_slice(format!(".TP\n\\fB{name}\\fR\n{help}\n").as_bytes());
        }
    }
    Ok(String::from_utf8(page)?)
}

pub(super) fn completions(command: &mut Command, shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "pilotlight", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
