/** What can go wrong: the server said so, nobody answered, or the job itself failed. */

import type { JobAnswer, Problem } from "./generated/types.gen.js";

/** The server refused; `problem` is its problem document (RFC 9457). */
export class VisionDynoError extends Error {
  override readonly name = "VisionDynoError";

  /**
   * @param problem what went wrong, and the next step.
   * @param retryAfterMs when to come again, if the server says so.
   */
  constructor(
    readonly problem: Problem,
    readonly retryAfterMs?: number,
  ) {
    super(problem.detail);
  }

  /** The kind of problem, for programs; it doesn't change between versions. */
  get code(): string {
    return this.problem.code;
  }

  /** The HTTP status. */
  get status(): number {
    return this.problem.status;
  }

  /** Whether the same request may succeed later. */
  get passes(): boolean {
    return [429, 502, 503, 504].includes(this.status);
  }
}

/** No answer came, or none of VisionDyno's; `cause` says why. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";
}

/** A job ended otherwise than COMPLETED; `answer` says how. */
export class JobFailed extends Error {
  override readonly name = "JobFailed";

  constructor(readonly answer: JobAnswer) {
    super(answer.error?.message ?? `The job ${answer.id} ended ${answer.status}.`);
  }
}

/** The time that the caller gave is over; the job goes on. */
export class TimeIsOver extends Error {
  override readonly name = "TimeIsOver";
}

/** The error that an HTTP response tells of. */
export async function errorOf(response: Response): Promise<VisionDynoError | Unreachable> {
  const text = await response.text();
  let problem: Partial<Problem> | undefined;
  try {
    problem = JSON.parse(text) as Partial<Problem>;
  } catch {
    problem = undefined;
  }
  if (typeof problem?.code !== "string" || typeof problem.detail !== "string") {
    return new Unreachable(
      `${response.url} answered ${response.status} with something that isn't VisionDyno's. ` +
        "Check baseUrl, and what stands between here and there.",
    );
  }
  return new VisionDynoError(problem as Problem, retryAfterMs(response));
}

function retryAfterMs(response: Response): number | undefined {
  const given = response.headers.get("Retry-After");
  return given !== null && /^\d+$/.test(given) ? Number(given) * 1000 : undefined;
}
