/** Requests whose addresses, parameters and bodies the compiler checks against the API. */

import { errorOf, Unreachable } from "./errors.js";

/** What the generated types say of an operation's request. */
export interface Operation {
  url: string;
  path?: unknown;
  query?: unknown;
  headers?: unknown;
  body?: unknown;
}

/** What a caller gives of an operation's request. */
export type Given<O extends Operation> = Omit<O, "url">;

type Method = "GET" | "POST" | "PUT" | "DELETE";

/** One server and the key for it. */
export class Http {
  readonly #base: string;
  readonly #apiKey: string | undefined;
  readonly #fetch: typeof fetch;

  constructor(base: string, apiKey: string | undefined, fetcher: typeof fetch) {
    this.#base = base.replace(/\/+$/, "");
    this.#apiKey = apiKey;
    this.#fetch = fetcher;
  }

  /**
   * The JSON that an operation answers.
   *
   * @throws VisionDynoError the server refused.
   * @throws Unreachable no answer came, or none of VisionDyno's.
   */
  async json<O extends Operation, Answer>(
    method: Method,
    url: O["url"],
    given: Given<O>,
    signal?: AbortSignal,
  ): Promise<Answer> {
    const response = await this.response<O>(method, url, given, signal);
    try {
      return (await response.json()) as Answer;
    } catch (cause) {
      throw unlessAborted(cause, signal, `${response.url} answered with no JSON, or broke off.`);
    }
  }

  /** The response of an operation that succeeded; throws as `json`. */
  async response<O extends Operation>(
    method: Method,
    url: O["url"],
    given: Given<O>,
    signal?: AbortSignal,
  ): Promise<Response> {
    const address = this.#base + filled(url, given.path) + queryOf(given.query);
    const headers = new Headers(entries(given.headers));
    if (this.#apiKey !== undefined) headers.set("Authorization", `Bearer ${this.#apiKey}`);
    const init: RequestInit = { method, headers, signal: signal ?? null };
    if (given.body instanceof FormData) {
      init.body = given.body;
    } else if (given.body !== undefined) {
      headers.set("Content-Type", "application/json");
      init.body = JSON.stringify(given.body);
    }
    let response: Response;
    try {
      response = await this.#fetch(address, init);
    } catch (cause) {
      throw unlessAborted(cause, signal, `No server answers at ${this.#base}. Is it running?`);
    }
    if (!response.ok) throw await errorOf(response);
    return response;
  }
}

/** `Unreachable`, or what the caller's own signal says. */
export function unlessAborted(cause: unknown, signal: AbortSignal | undefined, message: string) {
  return signal?.aborted ? signal.reason : new Unreachable(message, { cause });
}

function filled(url: string, path: unknown): string {
  const values = new Map(entries(path));
  return url.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(values.get(name) ?? ""));
}

function queryOf(query: unknown): string {
  const text = new URLSearchParams(entries(query)).toString();
  return text === "" ? "" : `?${text}`;
}

function entries(record: unknown): [string, string][] {
  return Object.entries(record ?? {})
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => [name, String(value)]);
}
