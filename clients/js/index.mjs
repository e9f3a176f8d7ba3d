// Owns the package's public names.
export { dispatch } from "./src/dispatch.mjs";
export { RefusedError, ReplyBrokenError } from "./src/errors.mjs";
export { wait } from "./src/waiting.mjs";
