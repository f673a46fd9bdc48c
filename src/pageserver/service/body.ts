/** Request bodies: bounded in size and time. */
import type { IncomingMessage } from "node:http";
import { ErrorCode, NeonError, systemCode } from "../../base/errors.ts";
import { JsonFields } from "../json-fields.ts";
import { HttpError, usage } from "./http-errors.ts";

/** Far above any request of ours. */
export const JSON_BYTES_MAX = 64 * 1024;
/** How long a client may take to send a JSON body. */
const JSON_TIMEOUT_MS = 30_000;
/** How long an upload may stand still. */
const UPLOAD_SILENCE_MS = 120_000;
/** How much of an unwanted body is read, so that the client gets to see our answer, before the connection is cut. */
const DRAIN_BYTES_MAX = 256 * 1024 * 1024;
const DRAIN_TIMEOUT_MS = 30_000;

/** The body as a JSON object. Throws `usage` if it is too long or something else. */
export async function readJsonBody(request: IncomingMessage): Promise<JsonFields> {
  return parseBody(await readText(request));
}

/** The same; undefined where there is no body. */
export async function readOptionalJsonBody(request: IncomingMessage): Promise<JsonFields | undefined> {
  const text = await readText(request);
  return text.trim() === "" ? undefined : parseBody(text);
}

/** What stands for a body that is not there, where none is needed. */
export function emptyBody(): JsonFields {
  return new JsonFields({}, "", usage);
}

function parseBody(text: string): JsonFields {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw usage(text === "" ? "the request has no body: a JSON object is wanted" : "the body is no JSON");
  }
  return new JsonFields(value, "", usage);
}

/** The body as it arrives; ends with an error where the client goes away before its end, or sends nothing for long. */
export async function* streamBody(request: IncomingMessage): AsyncIterable<Uint8Array> {
  // Not destroyed on an early exit: the answer still has to go out over this connection.
  const chunks = request.iterator({ destroyOnReturn: false });
  let timer = silenceTimer(request);
  try {
    for await (const chunk of chunks) {
      clearTimeout(timer);
      if (chunk instanceof Uint8Array) yield chunk;
      timer = silenceTimer(request);
    }
  } catch (error) {
    if (systemCode(error) !== "ECONNRESET") throw error;
    throw new NeonError(ErrorCode.Unreachable, "the client went away in the middle of the upload", {
      cause: error,
    });
  } finally {
    clearTimeout(timer);
  }
}

function silenceTimer(request: IncomingMessage): NodeJS.Timeout {
  return setTimeout(
    () => request.destroy(new HttpError(408, ErrorCode.Timeout, "the upload stands still")),
    UPLOAD_SILENCE_MS,
  );
}

/** Throws away the rest of a body that nobody wants, within limits; resolves when it is over. */
export async function drain(request: IncomingMessage): Promise<void> {
  if (request.readableEnded || request.destroyed) return;
  const timer = setTimeout(() => request.destroy(), DRAIN_TIMEOUT_MS);
  let sizeBytes = 0;
  try {
    for await (const chunk of request) {
      if (chunk instanceof Uint8Array) sizeBytes += chunk.length;
      if (sizeBytes > DRAIN_BYTES_MAX) break;
    }
  } catch {
    // The client has gone: nothing is left to drain.
  } finally {
    clearTimeout(timer);
  }
}

async function readText(request: IncomingMessage): Promise<string> {
  if (Number(request.headers["content-length"] ?? 0) > JSON_BYTES_MAX) throw tooLong();
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  const timer = setTimeout(
    () =>
      request.destroy(
        new HttpError(408, ErrorCode.Timeout, "the body of the request did not arrive in time"),
      ),
    JSON_TIMEOUT_MS,
  );
  try {
    // Not destroyed on an early exit: the answer still has to go out over this connection.
    for await (const chunk of request.iterator({ destroyOnReturn: false })) {
      if (!(chunk instanceof Uint8Array)) continue;
      sizeBytes += chunk.length;
      if (sizeBytes > JSON_BYTES_MAX) throw tooLong();
      chunks.push(chunk);
    }
  } finally {
    clearTimeout(timer);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
  } catch {
    throw usage("the body is no UTF-8");
  }
}

function tooLong(): HttpError {
  return new HttpError(413, ErrorCode.Usage, `the body is longer than ${JSON_BYTES_MAX} bytes`);
}
