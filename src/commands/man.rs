//! Owns the manual page and the shell completions, which are generated from the definitions of the flags.

use clap::Command;
use clap_complete::Shell;

/// One manual page for all commands and settings.
pub(super) fn manual_page(command: &mut Command) -> anyhow::Result<String> {
    command.build();
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    // In place of clap_mangen's section of commands, which refers to a separate page for each.
    page.extend_from_slice(b".SH COMMANDS\n");
    write_subcommands(command, "", &mut page);
    man.render_extra_section(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(String::from_utf8(page)?)
}

/// Writes each subcommand with its own arguments, without the global settings.
fn write_subcommands(command: &Command, path: &str, page: &mut Vec<u8>) {
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let path = format!("{path}{}", command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        page.extend_from_slice(format!(".SS {path}\n{about}.\n").as_bytes());
        for own in command.get_arguments().filter(|own| !own.is_global_set() && own.get_id() != "help") {
            // The flag and the name of its value, as in `--help`.
            let name = own.to_string().replace('-', "\\-");
            let help = own.get_help().map(ToString::to_string).unwrap_or_default();
            let default = own.get_default_values().first().filter(|_| own.get_action().takes_values());
            let default =
                default.map_or_else(String::new, |value| format!(" [default: {}]", value.display()));
            page.extend_from_slice(format!(".TP\n\\fB{name}\\fR\n{help}{default}\n").as_bytes());
        }
        write_subcommands(command, &format!("{path} "), page);
    }
}

pub(super) fn completions(command: &mut Command, shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "pilotlight", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
