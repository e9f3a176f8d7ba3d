//! Owns the tests of certificates and keys that cannot be used, or that clients refuse: each error names the reason.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::Broker;
use tempfile::TempDir;

struct Files(TempDir);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The output of OpenSSL; `None` if it fails or is not installed.
    fn openssl(&self, words: &str) -> Option<()> {
        let made = Command::new("openssl").args(words.split(' ')).current_dir(self.0.path()).output();
        made.is_ok_and(|made| made.status.success()).then_some(())
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// A certificate with its key as `NAME.pem` and `NAME.key`, valid between the beginnings of these years.
    fn certified(&self, name: &str, years: [i32; 2]) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["b".to_owned()]).unwrap();
        [params.not_before, params.not_after] = years.map(|year| rcgen::date_time_ymd(year, 1, 1));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        self.write(&format!("{name}.pem"), params.self_signed(&key).unwrap().pem());
        self.write(&format!("{name}.key"), key.serialize_pem());
    }

    fn flags(&self, cert: &str, key: &str) -> [String; 4] {
        let shown = |name| self.path(name).to_str().unwrap().to_owned();
        ["--tls-cert".to_owned(), shown(cert), "--tls-key".to_owned(), shown(key)]
    }

    /// The error of `check` for these files, which must be invalid.
    fn refusal(&self, cert: &str, key: &str) -> String {
        let free = ["check", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
        let check =
            Command::new(env!("CARGO_BIN_EXE_pilotlight")).args(free).args(self.flags(cert, key)).output();
        let Output { status, stdout, stderr } = check.unwrap();
        assert_eq!(status.code(), Some(1), "{cert}, {key}");
        assert!(!String::from_utf8(stdout).unwrap().contains("\nOK"), "{cert}, {key}");
        String::from_utf8(stderr).unwrap()
    }
}

fn files() -> Files {
    let files = Files(tempfile::tempdir().unwrap());
    files.certified("good", [2020, 2200]);
    files.certified("other", [2020, 2200]);
    files
}

#[tokio::test]
async fn an_expired_certificate_fails_the_check_and_is_served_with_a_warning() {
    let files = files();
    files.certified("ended", [2019, 2020]);
    files.certified("early", [2199, 2200]);
    let said = files.refusal("ended.pem", "ended.key");
    assert!(said.contains("ended.pem expired at 2020-01-01T00:00:00Z: clients refuse it"), "{said}");
    let said = files.refusal("early.pem", "early.key");
    assert!(said.contains("is not valid before 2199-01-01"), "{said}");

    let log = files.path("log");
    let flags = files.flags("ended.pem", "ended.key");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]).args(flags);
    let broker = Broker::run(command.stderr(std::fs::File::create(&log).unwrap()));
    let logged = async || std::fs::read_to_string(&log).unwrap().contains("expired at 2020-01-01");
    broker.wait_until("the warning is in the log", logged).await;
    assert_eq!(broker.operate("GET", "/readyz").await.0, 200);
}

#[test]
fn a_wrong_file_is_refused_with_what_it_is() {
    let files = files();
    let pem = files.read("good.pem");
    files.write("chain.pem", [files.read("other.pem"), pem.clone()].concat());
    files.write("unlinked.pem", [pem.clone(), files.read("other.pem")].concat());
    files.write("empty", "\n");
    files.write("nothing", "nothing");
    files.write("bom.pem", [b"\xEF\xBB\xBF", pem.replace('\n', "\r\n").as_bytes()].concat());
    files.write(
        "utf16.pem",
        [b"\xFF\xFE".to_vec(), pem.bytes().flat_map(|byte| [byte, 0]).collect()].concat(),
    );
    files.write("cut.pem", &pem[..pem.len() / 2]);
    files.write("wrong.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    files.write("cut.key", files.read("good.key").replace("-----END", "----"));
    for (cert, key, reason) in [
        ("good.pem", "other.key", "it is the key of another certificate"),
        ("good.key", "good.pem", "has a private key and no certificate; are the two files swapped?"),
        ("good.pem", "good.pem", "has a certificate and no private key"),
        ("chain.pem", "good.key", "is in the wrong order: the key is of its certificate 2"),
        ("unlinked.pem", "good.key", "certificate 2, did not issue the one before it"),
        ("empty", "good.key", "empty is empty"),
        ("good.pem", "empty", "empty is empty"),
        ("nothing", "good.key", "has no certificate in PEM"),
        ("good.pem", "nothing", "has no private key in PEM"),
        ("missing", "good.key", "cannot be read: No such file"),
        ("utf16.pem", "good.key", "is UTF-16"),
        ("good.pem", "cut.key", "is damaged"),
        ("cut.pem", "good.key", "cut.pem is damaged: its PEM cannot be read\n"),
        ("wrong.pem", "good.key", "a certificate in it is damaged\n"),
    ] {
        let said = files.refusal(cert, key);
        assert!(said.contains(reason), "{cert}, {key}: {said}");
    }
    // Line ends and a byte order mark of Windows editors are accepted.
    let flags = files.flags("bom.pem", "good.key");
    let free = ["check", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
    let check = Command::new(env!("CARGO_BIN_EXE_pilotlight")).args(free).args(flags).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn an_unsupported_key_is_refused_with_its_kind() {
    let files = files();
    let req = "req -x509 -nodes -days 30 -subj /CN=b -out K.pem -keyout K.key -newkey";
    for (name, make, reason) in [
        ("p521", format!("{req} ec -pkeyopt ec_paramgen_curve:P-521"), "is a key of the curve P-521"),
        (
            "secp256k1",
            format!("{req} ec -pkeyopt ec_paramgen_curve:secp256k1"),
            "is a key of the curve secp256k1",
        ),
        ("rsa1024", format!("{req} rsa:1024"), "is an RSA key of 1024 bits"),
        ("ed448", format!("{req} ed448"), "is an Ed448 key"),
        (
            "explicit",
            format!("{req} ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit"),
            "is a key of a curve without a name",
        ),
    ] {
        if files.openssl(&make.replace('K', name)).is_none() {
            eprintln!("skipped: openssl makes no {name} here");
            continue;
        }
        let said = files.refusal(&format!("{name}.pem"), &format!("{name}.key"));
        assert!(said.contains(reason) && said.contains("RSA of 2048"), "{name}: {said}");
    }
    let made = files.openssl("ec -in p521.key -out sec1.key").and_then(|()| {
        files.openssl("ec -in good.key -aes128 -passout pass:secret -out legacy.key")?;
        files.openssl("pkcs8 -topk8 -in good.key -passout pass:secret -out encrypted.key")?;
        files.openssl("x509 -in good.pem -outform der -out der.pem")?;
        files.openssl("pkey -in good.key -outform der -out der.key")?;
        files.openssl("pkey -in good.key -pubout -out public.key")?;
        files.openssl("req -new -key good.key -subj /CN=b -out request.pem")?;
        files.openssl("x509 -req -in request.pem -signkey good.key -days 9 -out v1.pem")
    });
    if made.is_none() {
        return eprintln!("skipped in part: no openssl here");
    }
    for (cert, key, reason) in [
        ("p521.pem", "sec1.key", "is a key of the curve P-521"),
        ("good.pem", "legacy.key", "is encrypted"),
        ("good.pem", "encrypted.key", "is encrypted"),
        ("good.pem", "der.key", "is DER"),
        ("der.pem", "good.key", "is DER"),
        ("good.pem", "public.key", "has a public key only"),
        ("request.pem", "good.key", "is a certificate request"),
    ] {
        let said = files.refusal(cert, key);
        assert!(said.contains(reason), "{cert}, {key}: {said}");
    }
    // Newer versions of OpenSSL make X.509 version 3 only.
    if is_version_1(&files.path("v1.pem")) {
        let said = files.refusal("v1.pem", "good.key");
        assert!(said.contains("is X.509 of a version before 3"), "{said}");
    }
}

fn is_version_1(path: &Path) -> bool {
    let shown = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(path).output().unwrap();
    String::from_utf8_lossy(&shown.stdout).contains("Version: 1")
}
