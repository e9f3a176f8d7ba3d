// Owns the certificate of this machine that the tests use.
import { execFileSync } from "node:child_process";
import { join } from "node:path";

/** Writes a certificate for 127.0.0.1 and its key into a folder. */
export function certificate(folder) {
  const [cert, key] = ["cert.pem", "key.pem"].map((name) => join(folder, name));
  const request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=broker -addext";
  execFileSync("openssl", [...request.split(" "), "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert], { stdio: "ignore" });
  return { cert, key };
}
