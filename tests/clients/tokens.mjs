// Owns deployment tokens as the platform signs them.
import { SignJWT } from "jose";

/** A token signed with this secret. `expires` is as jose takes it: a time from now such as `1h`, or a moment in seconds. */
export function deploymentToken(secret, deployment = "deployment_1", version = "20260821.3", expires = "1h") {
  const claims = { ver: 1, deployment, deployment_version: version, environment_id: "e", environment_type: "PRODUCTION", org_id: "o", project_id: "p" };
  const unsigned = new SignJWT(claims).setProtectedHeader({ alg: "HS256" }).setIssuer("https://id.trigger.dev");
  return unsigned.setAudience("https://api.trigger.dev").setExpirationTime(expires).sign(new TextEncoder().encode(secret));
}
