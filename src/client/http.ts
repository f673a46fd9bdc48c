/**
 * One HTTP request to a pageserver, through `node:http` (a base backup and an import are streams of gigabytes).
 * Whatever goes wrong becomes a `NeonError`: an error that the server sent keeps its code, message and hint.
 */
import {
  type ClientRequest,
  type IncomingMessage,
  type RequestOptions,
  request as plainRequest,
} from "node:http";
import { request as encryptedRequest } from "node:https";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { ConnectionOptions } from "node:tls";
import { type ErrorData, ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";
import { isObject } from "./json.ts";

export interface HttpTarget {
  /** `http://host:port` or `https://host:port`, no trailing slash. */
  readonly baseUrl: string;
  /** Bearer token, if the server wants one. */
  readonly token?: string | undefined;
  /** Instead of a token. */
  readonly login?: { readonly user: string; readonly password: string } | undefined;
  /** What is checked of the server's certificate; what the system trusts, and the host's name, unless given. */
  readonly trust?: Pick<ConnectionOptions, "ca" | "rejectUnauthorized" | "checkServerIdentity"> | undefined;
  /** One that was named by its URI, not the repository's own: what to do about a failure is another thing. */
  readonly remote?: boolean | undefined;
}

export interface HttpCall {
  readonly method: "GET" | "POST" | "PATCH" | "DELETE";
  /** Path and query, `/v1/…`. */
  readonly path: string;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Sent as it is, instead of `body`. */
  readonly upload?: Readable | undefined;
  /** Longest silence of the server in milliseconds. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** An answer of a pageserver that is no error; its body has not been read yet. */
export type HttpAnswer = IncomingMessage;

/** A server that has said nothing for so long is asked whether it is there at all, milliseconds. */
const SILENCE_MS = 5000;
/** How long it may take to say so, milliseconds. It does nothing that keeps it from answering. */
const SIGN_OF_LIFE_MS = 5000;

/** Largest JSON answer that we accept. */
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;

/** Sends the request; resolves with the answer once its status is known to be 2xx. */
export async function sendRequest(target: HttpTarget, call: HttpCall): Promise<HttpAnswer> {
  const url = new URL(target.baseUrl + call.path);
  const json = call.body === undefined ? undefined : JSON.stringify(call.body);
  const headers: Record<string, string | number> = { accept: "application/json" };
  const authorization = authorizationOf(target);
  if (authorization !== undefined) headers["authorization"] = authorization;
  if (json !== undefined) {
    headers["content-type"] = "application/json";
    headers["content-length"] = Buffer.byteLength(json);
  } else if (call.upload) {
    headers["content-type"] = "application/x-tar";
  }
  const options: RequestOptions = { method: call.method, headers, agent: false, timeout: call.timeoutMs };
  if (call.signal) options.signal = call.signal;
  const answer = await exchange(target, url, options, call, json);
  const status = answer.statusCode ?? 0;
  if (status >= 200 && status < 300) return answer;
  throw errorFromAnswer(target, status, await readBody(answer));
}

function authorizationOf({ token, login }: HttpTarget): string | undefined {
  if (login) return `Basic ${Buffer.from(`${login.user}:${login.password}`).toString("base64")}`;
  return token ? `Bearer ${token}` : undefined;
}

/** Over TLS where the target's URL says so. */
function request(
  target: HttpTarget,
  url: URL | string,
  options: RequestOptions,
  onAnswer: (answer: IncomingMessage) => void,
): ClientRequest {
  if (!target.baseUrl.startsWith("https:")) return plainRequest(url, options, onAnswer);
  return encryptedRequest(url, { ...options, ...target.trust }, onAnswer);
}

function exchange(
  target: HttpTarget,
  url: URL,
  options: RequestOptions,
  call: HttpCall,
  json: string | undefined,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const fail = (error: unknown): void => {
      reject(error instanceof NeonError ? error : connectionError(target, error, call.signal));
    };
    const sent = request(target, url, options, (answer) => {
      // An answer that breaks off after its head is reported by whoever reads it.
      resolve(answer);
    });
    sent.on("error", fail);
    sent.on("timeout", () => {
      sent.destroy(noAnswer(target, call.timeoutMs));
    });
    // Some requests may take minutes; a server that hangs should not look like one that works.
    const watch = setInterval(() => {
      void isSilent(target).then((silent) => {
        if (silent) sent.destroy(noAnswer(target, SILENCE_MS + SIGN_OF_LIFE_MS));
      });
    }, SILENCE_MS);
    const stopWatching = (): void => clearInterval(watch);
    sent.on("response", stopWatching).on("close", stopWatching);
    if (call.upload) {
      // When the server refuses early, its answer says more than the broken pipe that follows.
      pipeline(call.upload, sent).catch((error: unknown) => setTimeout(() => fail(error), 250).unref());
    } else {
      sent.end(json);
    }
  });
}

function noAnswer(target: HttpTarget, silenceMs: number): NeonError {
  return new NeonError(
    ErrorCode.Timeout,
    `the pageserver at ${target.baseUrl} has not answered for ${silenceMs / 1000} s`,
    {
      hint: target.remote
        ? "It may be busy, or a firewall may be in between."
        : "See `neon status` and `neon logs` for what it is doing.",
    },
  );
}

/** Whether a server takes connections, but does not answer the simplest of all requests. */
function isSilent(target: HttpTarget): Promise<boolean> {
  return new Promise((resolve) => {
    const options: RequestOptions = { agent: false, timeout: SIGN_OF_LIFE_MS };
    const sent = request(target, `${target.baseUrl}/v1/status`, options, (answer) => {
      answer.resume();
      resolve(false);
    });
    sent.on("timeout", () => {
      resolve(true);
      sent.destroy();
    });
    // A connection that breaks is noticed by the request that waits for its answer.
    sent.on("error", () => resolve(false));
    sent.end();
  });
}

/** The bytes of an answer. Throws at their end what the server reports to have failed on the way. */
export async function* readStream(target: HttpTarget, answer: IncomingMessage): AsyncIterable<Uint8Array> {
  try {
    for await (const chunk of answer) if (chunk instanceof Uint8Array) yield chunk;
  } catch (error) {
    throw connectionError(target, error, undefined);
  }
  const told = answer.trailers[ERROR_TRAILER];
  if (told !== undefined) throw errorFromAnswer(target, answer.statusCode ?? 0, decoded(told));
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The whole body as text, bounded. */
export async function readBody(answer: IncomingMessage): Promise<string> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of answer) {
    if (!(chunk instanceof Uint8Array)) continue;
    sizeBytes += chunk.length;
    if (sizeBytes > ANSWER_BYTES_MAX) {
      answer.destroy();
      throw new NeonError(
        ErrorCode.Unreachable,
        `the pageserver's answer is longer than ${ANSWER_BYTES_MAX} bytes`,
      );
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** Sends the request and parses the JSON of the answer. */
export async function requestJson(target: HttpTarget, call: HttpCall): Promise<unknown> {
  const answer = await sendRequest(target, call);
  let text: string;
  try {
    text = await readBody(answer);
  } catch (error) {
    throw error instanceof NeonError ? error : connectionError(target, error, call.signal);
  }
  if (text === "") return {};
  try {
    return JSON.parse(text);
  } catch (error) {
    throw notAPageserver(target, error);
  }
}

/**
 * Sends a request whose answer comes as lines of JSON while the server works: calls `progress` with each line of
 * progress, returns the result. Throws the error that the server sent as its last line.
 */
export async function requestJsonLines(
  target: HttpTarget,
  call: HttpCall,
  progress: (value: unknown) => void,
): Promise<unknown> {
  const answer = await sendRequest(target, call);
  let rest = "";
  try {
    for await (const chunk of answer.setEncoding("utf8")) {
      const lines = (rest + String(chunk)).split("\n");
      rest = lines.pop() ?? "";
      if (rest.length > ANSWER_BYTES_MAX) throw notAPageserver(target);
      for (const line of lines) {
        const value: unknown = JSON.parse(line);
        if (!isObject(value)) throw notAPageserver(target);
        if ("error" in value) throw errorFromAnswer(target, answer.statusCode ?? 0, line);
        if ("result" in value) return value["result"];
        progress(value["progress"]);
      }
    }
  } catch (error) {
    if (error instanceof SyntaxError) throw notAPageserver(target, error);
    throw error instanceof NeonError ? error : connectionError(target, error, call.signal);
  }
  throw new NeonError(ErrorCode.Unreachable, `the pageserver at ${target.baseUrl} broke off its answer`, {
    hint: "See whether it is still running with `neon status`; its log is shown by `neon logs`.",
  });
}

function notAPageserver(target: HttpTarget, cause?: unknown): NeonError {
  return new NeonError(ErrorCode.Unreachable, `what answers at ${target.baseUrl} is not a pageserver`, {
    hint: target.remote
      ? "Check host and port: it is the pageserver's HTTP port that is wanted (9898 unless it was changed)."
      : "Another program uses its port. Choose another with `neon config set pageserver.listen 127.0.0.1:PORT`.",
    cause,
  });
}

function connectionError(target: HttpTarget, error: unknown, signal: AbortSignal | undefined): NeonError {
  if (signal?.aborted) return new NeonError(ErrorCode.Failed, "the request was given up", { cause: error });
  const code = systemCode(error);
  if (code === "ECONNREFUSED" || code === "EHOSTUNREACH" || code === "ENETUNREACH" || code === "ENOTFOUND") {
    return new NeonError(ErrorCode.Unreachable, `no pageserver answers at ${target.baseUrl}`, {
      hint: target.remote ? "Check host and port, and whether it runs." : "Start it with `neon start`.",
      cause: error,
    });
  }
  if (code === "HPE_INVALID_CONSTANT") return notAPageserver(target, error);
  if (code !== undefined && TLS_FAILURE.test(code)) return tlsFailure(target, code, error);
  return new NeonError(
    ErrorCode.Unreachable,
    `the connection to the pageserver at ${target.baseUrl} broke: ${messageOf(error)}`,
    {
      hint: target.remote
        ? "See whether it is still running."
        : "See whether it is still running with `neon status`; its log is shown by `neon logs`.",
      cause: error,
    },
  );
}

/** Codes of certificates that are not accepted, and of handshakes that fail. */
const TLS_FAILURE = /CERT|SELF_SIGNED|UNABLE_TO_VERIFY|^ERR_SSL_|^ERR_TLS_|^EPROTO$/;

function tlsFailure(target: HttpTarget, code: string, cause: unknown): NeonError {
  const fail = (message: string, hint: string): NeonError =>
    new NeonError(ErrorCode.Unreachable, `${target.baseUrl}: TLS: ${message}`, { hint, cause });
  // OpenSSL tells these at length, with its own source lines.
  if (code === "EPROTO" || code.startsWith("ERR_SSL_")) {
    return fail(
      "the handshake fails",
      "Perhaps it has no certificate: `neon pageserver cert` there makes one.",
    );
  }
  return code === "ERR_TLS_CERT_ALTNAME_INVALID"
    ? fail(
        messageOf(cause),
        "The certificate is for other names: use one of those, make a new one for this name, or sslmode=verify-ca.",
      )
    : fail(
        messageOf(cause),
        "Get the server's certificate from its owner and name it: ?sslrootcert=/path/server.crt",
      );
}

/** What went wrong after the head of an answer was sent: JSON as of any error, percent-encoded. */
const ERROR_TRAILER = "x-neon-error";

const CREDENTIALS_HINT =
  "Name a user in the URI, https://user@host, with its password in $PGPASSWORD or ~/.pgpass; or set NEON_PAGESERVER_TOKEN.";

const CODES: ReadonlySet<string> = new Set(Object.values(ErrorCode));

function isErrorCode(text: unknown): text is ErrorCode {
  return typeof text === "string" && CODES.has(text);
}

function errorFromAnswer(target: HttpTarget, status: number, body: string): NeonError {
  let parsed: unknown;
  try {
    parsed = JSON.parse(body);
  } catch {
    return notAPageserver(target);
  }
  const error = isObject(parsed) && isObject(parsed["error"]) ? parsed["error"] : undefined;
  if (!error || typeof error["message"] !== "string") return notAPageserver(target);
  const code = isErrorCode(error["code"]) ? error["code"] : ErrorCode.Failed;
  const hint = typeof error["hint"] === "string" ? error["hint"] : undefined;
  if (target.remote && (status === 401 || status === 403)) {
    return new NeonError(ErrorCode.Unreachable, `${target.baseUrl} refuses: ${error["message"]}`, {
      hint: status === 401 ? CREDENTIALS_HINT : hint,
    });
  }
  if (status === 401 || status === 403) {
    return new NeonError(ErrorCode.Unreachable, `the pageserver at ${target.baseUrl} refuses our token`, {
      hint: "It may belong to another repository, or `pageserver.auth_token` in config.toml was changed: run `neon stop` and `neon start`.",
    });
  }
  return new NeonError(code, error["message"], { hint, data: scalarsOf(error["data"]) });
}

function scalarsOf(value: unknown): ErrorData {
  const scalars: Record<string, string | number | boolean | null> = {};
  if (!isObject(value)) return scalars;
  for (const [name, item] of Object.entries(value)) {
    if (item === null || typeof item === "string" || typeof item === "number" || typeof item === "boolean") {
      scalars[name] = item;
    }
  }
  return scalars;
}
