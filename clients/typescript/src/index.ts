export { VisionDyno } from "./client.js";
export type { HandingIn, Options, Patience, Sleep, Submitting } from "./client.js";
export { JobFailed, TimeIsOver, Unreachable, VisionDynoError } from "./errors.js";
export { isTerminal } from "./events.js";
export type { JobEvent } from "./events.js";
export type * from "./generated/types.gen.js";
