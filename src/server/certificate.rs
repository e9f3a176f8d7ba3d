//! Owns what can be wrong with a certificate and its key: each reason in words, none with a byte of a key.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::asn1_rs::{Any, FromDer, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

/// What a key for TLS can be here.
const KINDS: &str = "TLS takes RSA of 2048 to 4096 bits, P-256, P-384 and Ed25519 here";

/// The certificates of a file, the first one first.
pub(super) fn chain(flag: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let bytes = read(flag, path)?;
    let all = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|_| anyhow!("--{flag} {shown} is damaged: its PEM cannot be read"))?;
    if all.is_empty() {
        let labels = labels(&bytes);
        let has = |what: &str| labels.iter().any(|label| label.ends_with(what));
        bail!(
            "--{flag} {shown} {}",
            match () {
                () if labels.is_empty() && bytes[0] == DER =>
                    "is DER, and PEM is wanted: openssl x509 -inform der -in FILE -out FILE.pem",
                () if has("PRIVATE KEY") =>
                    "has a private key and no certificate; are the two files the wrong way round?",
                () if has("CERTIFICATE REQUEST") =>
                    "is a request; what the authority has answered it with is wanted",
                () if has("TRUSTED CERTIFICATE") =>
                    "is of OpenSSL's own form: openssl x509 -in FILE -out FILE.pem",
                () => "has no certificate in PEM",
            }
        );
    }
    Ok(all)
}

/// The private key of a file.
pub(super) fn private_key(flag: &str, path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let bytes = read(flag, path)?;
    let labels = labels(&bytes);
    let has = |what: &str| labels.iter().any(|label| label.ends_with(what));
    let is_encrypted =
        has("ENCRYPTED PRIVATE KEY") || bytes.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED);
    let why = match PrivateKeyDer::from_pem_slice(&bytes) {
        _ if is_encrypted => {
            "is encrypted, and nobody is there to ask for its passphrase: openssl pkey -in FILE -out FILE.pem"
        }
        Ok(key) => return Ok(key),
        Err(_) if labels.is_empty() && bytes[0] == DER => {
            "is DER, and PEM is wanted: openssl pkey -inform der -in FILE -out FILE.pem"
        }
        Err(_) if has("OPENSSH PRIVATE KEY") => "is a key of OpenSSH, and one for TLS is wanted",
        Err(_) if has("PRIVATE KEY") => "has a private key that is damaged: its PEM cannot be read",
        Err(_) if has("CERTIFICATE") => {
            "has a certificate and no private key; are the two files the wrong way round?"
        }
        Err(_) if has("PUBLIC KEY") => "has a public key only; the private one is wanted",
        Err(_) => "has no private key in PEM",
    };
    bail!("--{flag} {} {why}", path.display());
}

/// Whether a server can use these together. The error says what is wrong with which.
pub(super) fn fit(
    chain: &[CertificateDer<'static>],
    private: &PrivateKeyDer<'static>,
    cert: &str,
    key: &str,
) -> anyhow::Result<()> {
    let parsed = parsed(chain).with_context(|| format!("{cert} cannot be read"))?;
    if parsed.first().is_some_and(|first| first.version() != X509Version::V3) {
        bail!("{cert} is X.509 of a version before 3, which clients refuse; have a new one made");
    }
    let signing = any_supported_type(private).map_err(|_| anyhow!("{key} {}", unsupported(private)))?;
    let place =
        signing.public_key().map(|key| parsed.iter().position(|one| one.public_key().raw == key.as_ref()));
    match place {
        Some(None) => bail!("{key} does not fit {cert}: it is the key of another certificate"),
        Some(Some(place @ 1..)) => bail!(
            "{cert} is in the wrong order: the key is of its certificate {}, and the server's comes first",
            place + 1
        ),
        Some(Some(_)) | None => {}
    }
    CertifiedKey::new(chain.to_vec(), signing)
        .keys_match()
        .with_context(|| format!("{key} does not fit {cert}"))
}

/// When the first one ends, and what clients will not like about them now.
pub(super) fn judge(chain: &[CertificateDer<'_>], name: &str) -> anyhow::Result<(SystemTime, Vec<String>)> {
    let parsed = parsed(chain).with_context(|| format!("{name} cannot be read"))?;
    let mut faults = Vec::new();
    let now = ASN1Time::now();
    for (place, one) in parsed.iter().enumerate() {
        let which = if place == 0 { name.to_owned() } else { format!("{name}, certificate {},", place + 1) };
        let shown = |time: ASN1Time| humantime::format_rfc3339_seconds(moment(time));
        let validity = one.validity();
        if validity.not_after < now {
            faults.push(format!("{which} ended {}: clients refuse it", shown(validity.not_after)));
        }
        if validity.not_before > now {
            faults.push(format!(
                "{which} is not valid before {}: clients refuse it",
                shown(validity.not_before)
            ));
        }
        if place > 0 && parsed[place - 1].issuer() != one.subject() {
            faults.push(format!("{which} has not issued the one before it: clients may refuse the chain"));
        }
    }
    let usage = parsed.first().and_then(|first| first.extended_key_usage().ok().flatten());
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        faults.push(format!("{name} is not meant for servers: clients refuse it"));
    }
    let ends = parsed.first().map_or(UNIX_EPOCH, |first| moment(first.validity().not_after));
    Ok((ends, faults))
}

/// How a DER file begins, PKCS#12 as well.
const DER: u8 = 0x30;
const ENCRYPTED: &[u8] = b"Proc-Type: 4,ENCRYPTED";

fn read(flag: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let mut bytes = std::fs::read(path).with_context(|| format!("--{flag} {shown} cannot be read"))?;
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        bytes.drain(..3);
    }
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        bail!("--{flag} {shown} is UTF-16; save it as plain text");
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        bail!("--{flag} {shown} is empty");
    }
    Ok(bytes)
}

/// What the sections of a PEM file say that they are.
fn labels(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let label = |line: &str| Some(line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----")?.to_owned());
    text.lines().filter_map(label).collect()
}

fn parsed<'a>(chain: &'a [CertificateDer<'_>]) -> anyhow::Result<Vec<X509Certificate<'a>>> {
    // What the parser says of it is for its own developers.
    let parse = |one: &'a CertificateDer<'_>| match x509_parser::parse_x509_certificate(one) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => bail!("a certificate in it is damaged"),
    };
    chain.iter().map(parse).collect()
}

fn moment(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

/// Why a key cannot be used, by its kind.
fn unsupported(key: &PrivateKeyDer<'_>) -> String {
    match kind(key) {
        Some(kind) => format!("is {kind}; {KINDS}"),
        None => format!("is a private key that cannot be read; {KINDS}"),
    }
}

fn kind(key: &PrivateKeyDer<'_>) -> Option<String> {
    let der = key.secret_der();
    let fields = elements(Any::from_der(der).ok()?.1.data)?;
    let oid = |any: &Any<'_>| {
        let is_name = any.tag() == Tag::Oid;
        if is_name { any.clone().oid().ok().map(|oid| oid.to_id_string()) } else { Some(NAMELESS.to_owned()) }
    };
    match key {
        PrivateKeyDer::Pkcs1(_) => rsa(der),
        PrivateKeyDer::Sec1(_) => {
            let parameters = fields.iter().find(|any| any.tag().0 == 0)?;
            Some(named(&oid(&Any::from_der(parameters.data).ok()?.1)?))
        }
        PrivateKeyDer::Pkcs8(_) | _ => {
            let algorithm = elements(fields.get(1)?.data)?;
            match (oid(algorithm.first()?)?.as_str(), algorithm.get(1)) {
                (RSA, _) => rsa(fields.get(2)?.data),
                (EC, Some(curve)) => Some(named(&oid(curve)?)),
                (other, _) => Some(named(other)),
            }
        }
    }
}

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
/// In the place of a name, a curve is described number by number.
const NAMELESS: &str = "";

fn named(oid: &str) -> String {
    match oid {
        NAMELESS => {
            "a key of a curve without a name: openssl ec -in FILE -param_enc named_curve -out FILE.pem"
                .to_owned()
        }
        "1.3.132.0.35" => "a key of the curve P-521".to_owned(),
        "1.3.132.0.10" => "a key of the curve secp256k1".to_owned(),
        "1.3.101.113" => "an Ed448 key".to_owned(),
        "1.2.840.113549.1.1.10" => "a key for RSA-PSS alone".to_owned(),
        "1.2.840.10040.4.1" => "a DSA key".to_owned(),
        other => format!("a key of the kind {other}"),
    }
}

/// The size of an RSA key: its modulus is the second number.
fn rsa(der: &[u8]) -> Option<String> {
    let numbers = elements(Any::from_der(der).ok()?.1.data)?;
    let modulus = numbers.get(1)?.data;
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
    Some(format!("an RSA key of {bits} bits"))
}

/// What stands in a sequence.
fn elements(mut content: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut all = Vec::new();
    while !content.is_empty() {
        let (rest, one) = Any::from_der(content).ok()?;
        all.push(one);
        content = rest;
    }
    Some(all)
}
