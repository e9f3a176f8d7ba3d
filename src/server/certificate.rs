//! Owns reading certificates and private keys, and explaining what is wrong with them without quoting a byte of a key.

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

const SUPPORTED_KEYS: &str = "supported are RSA of 2048 to 4096 bits, P-256, P-384 and Ed25519";

/// Reads the certificates of a PEM file, in their order.
pub(super) fn read_chain(flag: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
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
                    "is DER, but must be PEM: openssl x509 -inform der -in FILE -out FILE.pem",
                () if has("PRIVATE KEY") =>
                    "has a private key and no certificate; are the two files swapped?",
                () if has("CERTIFICATE REQUEST") =>
                    "is a certificate request; use the certificate that the authority issued for it",
                () if has("TRUSTED CERTIFICATE") =>
                    "is a trusted certificate, which only OpenSSL reads: openssl x509 -in FILE -out FILE.pem",
                () => "has no certificate in PEM",
            }
        );
    }
    Ok(all)
}

/// Reads the private key of a PEM file.
pub(super) fn read_private_key(flag: &str, path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let bytes = read(flag, path)?;
    let labels = labels(&bytes);
    let has = |what: &str| labels.iter().any(|label| label.ends_with(what));
    let is_encrypted =
        has("ENCRYPTED PRIVATE KEY") || bytes.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED);
    let reason = match PrivateKeyDer::from_pem_slice(&bytes) {
        _ if is_encrypted => {
            "is encrypted, but the broker cannot ask for a passphrase: openssl pkey -in FILE -out FILE.pem"
        }
        Ok(key) => return Ok(key),
        Err(_) if labels.is_empty() && bytes[0] == DER => {
            "is DER, but must be PEM: openssl pkey -inform der -in FILE -out FILE.pem"
        }
        Err(_) if has("OPENSSH PRIVATE KEY") => "is a key for OpenSSH, not for TLS",
        Err(_) if has("PRIVATE KEY") => "has a private key that is damaged: its PEM cannot be read",
        Err(_) if has("CERTIFICATE") => "has a certificate and no private key; are the two files swapped?",
        Err(_) if has("PUBLIC KEY") => "has a public key only; use the private key",
        Err(_) => "has no private key in PEM",
    };
    bail!("--{flag} {} {reason}", path.display());
}

/// Checks that a server can use a chain with a key. The error names the file that is wrong.
pub(super) fn check_key_matches(
    chain: &[CertificateDer<'static>],
    private_key: &PrivateKeyDer<'static>,
    cert: &str,
    key: &str,
) -> anyhow::Result<()> {
    let parsed = parse(chain).with_context(|| format!("{cert} cannot be read"))?;
    if parsed.first().is_some_and(|first| first.version() != X509Version::V3) {
        bail!("{cert} is X.509 of a version before 3, which clients refuse; request a new one");
    }
    let signing =
        any_supported_type(private_key).map_err(|_| anyhow!("{key} {}", unsupported(private_key)))?;
    let index =
        signing.public_key().map(|key| parsed.iter().position(|one| one.public_key().raw == key.as_ref()));
    match index {
        Some(None) => bail!("{key} does not fit {cert}: it is the key of another certificate"),
        Some(Some(index @ 1..)) => bail!(
            "{cert} is in the wrong order: the key is of its certificate {}, but the server's must be the first",
            index + 1
        ),
        Some(Some(_)) | None => {}
    }
    CertifiedKey::new(chain.to_vec(), signing)
        .keys_match()
        .with_context(|| format!("{key} does not fit {cert}"))
}

/// When the server's certificate expires, and the reasons for which clients now refuse the chain, or may refuse it.
pub(super) fn expiry_and_warnings(
    chain: &[CertificateDer<'_>],
    name: &str,
) -> anyhow::Result<(SystemTime, Vec<String>)> {
    let parsed = parse(chain).with_context(|| format!("{name} cannot be read"))?;
    let mut warnings = Vec::new();
    let now = ASN1Time::now();
    for (index, one) in parsed.iter().enumerate() {
        let which = if index == 0 { name.to_owned() } else { format!("{name}, certificate {},", index + 1) };
        let shown = |time: ASN1Time| humantime::format_rfc3339_seconds(system_time(time));
        let validity = one.validity();
        if validity.not_after < now {
            warnings.push(format!("{which} expired at {}: clients refuse it", shown(validity.not_after)));
        }
        if validity.not_before > now {
            warnings.push(format!(
                "{which} is not valid before {}: clients refuse it",
                shown(validity.not_before)
            ));
        }
        if index > 0 && parsed[index - 1].issuer() != one.subject() {
            warnings.push(format!("{which} did not issue the one before it: clients may refuse the chain"));
        }
    }
    let usage = parsed.first().and_then(|first| first.extended_key_usage().ok().flatten());
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        warnings.push(format!("{name} is not issued for servers: clients refuse it"));
    }
    let expires_at = parsed.first().map_or(UNIX_EPOCH, |first| system_time(first.validity().not_after));
    Ok((expires_at, warnings))
}

/// The first byte of a DER file, PKCS#12 included.
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

/// The labels of the sections of a PEM file.
fn labels(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let label = |line: &str| Some(line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----")?.to_owned());
    text.lines().filter_map(label).collect()
}

fn parse<'a>(chain: &'a [CertificateDer<'_>]) -> anyhow::Result<Vec<X509Certificate<'a>>> {
    // The parser's own error helps only its developers.
    let parse_one = |one: &'a CertificateDer<'_>| match x509_parser::parse_x509_certificate(one) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => bail!("a certificate in it is damaged"),
    };
    chain.iter().map(parse_one).collect()
}

fn system_time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

/// Why a key is not supported.
fn unsupported(key: &PrivateKeyDer<'_>) -> String {
    match describe_key(key) {
        Some(key) => format!("is {key}; {SUPPORTED_KEYS}"),
        None => format!("is a private key that cannot be read; {SUPPORTED_KEYS}"),
    }
}

/// What kind of key it is, read from its DER.
fn describe_key(key: &PrivateKeyDer<'_>) -> Option<String> {
    let der = key.secret_der();
    let fields = elements(Any::from_der(der).ok()?.1.data)?;
    let oid = |any: &Any<'_>| {
        let is_oid = any.tag() == Tag::Oid;
        if is_oid {
            any.clone().oid().ok().map(|oid| oid.to_id_string())
        } else {
            Some(UNNAMED_CURVE.to_owned())
        }
    };
    match key {
        PrivateKeyDer::Pkcs1(_) => describe_rsa(der),
        PrivateKeyDer::Sec1(_) => {
            let parameters = fields.iter().find(|any| any.tag().0 == 0)?;
            Some(describe_oid(&oid(&Any::from_der(parameters.data).ok()?.1)?))
        }
        PrivateKeyDer::Pkcs8(_) | _ => {
            let algorithm = elements(fields.get(1)?.data)?;
            match (oid(algorithm.first()?)?.as_str(), algorithm.get(1)) {
                (RSA, _) => describe_rsa(fields.get(2)?.data),
                (EC, Some(curve)) => Some(describe_oid(&oid(curve)?)),
                (other, _) => Some(describe_oid(other)),
            }
        }
    }
}

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
/// Stands for a curve that the file describes by its parameters instead of an OID.
const UNNAMED_CURVE: &str = "";

fn describe_oid(oid: &str) -> String {
    match oid {
        UNNAMED_CURVE => {
            "a key of a curve without a name: openssl ec -in FILE -param_enc named_curve -out FILE.pem"
                .to_owned()
        }
        "1.3.132.0.35" => "a key of the curve P-521".to_owned(),
        "1.3.132.0.10" => "a key of the curve secp256k1".to_owned(),
        "1.3.101.113" => "an Ed448 key".to_owned(),
        "1.2.840.113549.1.1.10" => "a key for RSA-PSS only".to_owned(),
        "1.2.840.10040.4.1" => "a DSA key".to_owned(),
        other => format!("a key with the algorithm {other}"),
    }
}

/// An RSA key with its size: the modulus is the second number.
fn describe_rsa(der: &[u8]) -> Option<String> {
    let numbers = elements(Any::from_der(der).ok()?.1.data)?;
    let modulus = numbers.get(1)?.data;
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
    Some(format!("an RSA key of {bits} bits"))
}

/// The elements of a DER sequence.
fn elements(mut content: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut all = Vec::new();
    while !content.is_empty() {
        let (rest, one) = Any::from_der(content).ok()?;
        all.push(one);
        content = rest;
    }
    Some(all)
}
