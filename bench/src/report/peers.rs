//! Owns how the peers are installed and compiled, and their versions.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use pilotlight_bench::implementation::{PEERS, peers_folder};
use pilotlight_bench::stdout::print;

/// Installs and compiles what the peers need. Prints which of them cannot be installed here, and leaves them out.
pub(super) fn install() -> Vec<&'static str> {
    let folder = peers_folder();
    let npm = install_npm().and_then(|()| run(&folder, "npm", &["run", "--silent", "compile"]));
    let go = build_go();
    let missing = |name: &str| match name {
        "floor" => None,
        "go" => go.as_ref().err(),
        _ => npm.as_ref().err(),
    };
    let mut ready = Vec::new();
    for name in PEERS {
        match missing(name) {
            None => ready.push(name),
            Some(error) => print(&format!("{name} is left out: {error:#}\n")),
        }
    }
    ready
}

/// Installs the peers of npm.
pub(super) fn install_npm() -> anyhow::Result<()> {
    run(&peers_folder(), "npm", &["ci", "--no-progress", "--loglevel=error"])
}

/// Compiles the peers in Go.
pub(super) fn build_go() -> anyhow::Result<()> {
    let folder = peers_folder();
    if which("go").is_none() && which("apt-get").is_some() && rustix::process::getuid().is_root() {
        let _ = run(&folder, "apt-get", &["-qq", "update"]);
        let _ = run(&folder, "apt-get", &["-qq", "install", "-y", "--no-install-recommends", "golang-go"]);
    }
    run(&folder.join("go"), "go", &["build", "-o", "peers", "."])?;
    run(&folder.join("go"), "go", &["build", "-o", "stream-proxy", "./stream"])
}

/// The package of Python that contains AWS's emulator as a program, and its version.
pub(super) fn emulator_package() -> &'static str {
    let requirements = include_str!("../../peers/lambda/requirements.txt");
    requirements.lines().find(|line| !line.starts_with('#')).unwrap_or_default()
}

/// Installs AWS's emulator. Returns its path.
pub(super) fn install_emulator() -> anyhow::Result<PathBuf> {
    let folder = peers_folder().join("lambda");
    let program =
        folder.join("emulator/samcli/local/rapid").join(format!("aws-lambda-rie-{}", architecture()));
    let (wanted, installed) = (folder.join("requirements.txt"), folder.join("emulator/.installed"));
    let read = |path: &Path| std::fs::read(path).ok();
    if read(&installed).is_none() || read(&installed) != read(&wanted) {
        run(&folder, "python3", &["-m", "venv", "--clear", ".venv"])?;
        let arguments = "install --quiet --disable-pip-version-check --no-deps --upgrade --target emulator -r requirements.txt";
        let pip = folder.join(".venv/bin/pip");
        run(&folder, &pip.display().to_string(), &arguments.split(' ').collect::<Vec<_>>())?;
        std::fs::set_permissions(&program, Permissions::from_mode(0o755))
            .with_context(|| format!("no emulator for {}", architecture()))?;
        std::fs::copy(wanted, installed)?;
    }
    Ok(program)
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { std::env::consts::ARCH }
}

/// The version that a program prints.
pub(super) fn version(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "absent".to_owned())
}

fn which(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.with_context(|| format!("{program} does not start"))?;
    ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
