/** Request bodies: bounded in size and time. */
import type { IncomingMessage } from "node:http";
import { ErrorCode } from "../../base/errors.ts";
import { JsonFields } from "../json-fields.ts";
import { HttpError, usage } from "./http-errors.ts";

/** Far above any request of ours. */
export const JSON_BYTES_MAX = 64 * 1024;
/** How long a client may take to send a JSON body. */
const JSON_TIMEOUT_MS = 30_000;
/** How much of an unwanted body is read, so that the client gets to see our answer, before the connection is cut. */
const DRAIN_BYTES_MAX = 256 * 1024 * 1024;
const DRAIN_TIMEOUT_MS = 30_000;

/** The body as a JSON object. Throws `usage` if it is too long or something else. */
export async function readJsonBody(request: IncomingMessage): Promise<JsonFields> {
  const text = await readText(request);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw usage(text === "" ? "the request has no body: a JSON object is wanted" : "the body is no JSON");
  }
  return new JsonFields(value, "", usage);
}

/** For routes without a body: anything that is sent is a mistake. */
export async function expectNoBody(request: IncomingMessage): Promise<void> {
  if ((await readText(request)).trim() !== "") throw usage("this request takes no body");
}

/** The body as it arrives; ends with an error where the client goes away before its end. */
export async function* streamBody(request: IncomingMessage): AsyncIterable<Uint8Array> {
  for await (const chunk of request) {
    if (chunk instanceof Uint8Array) yield chunk;
  }
}

/** Throws away the rest of a body that nobody wants, within limits. */
export function drain(request: IncomingMessage): void {
  if (request.readableEnded || request.destroyed) return;
  let sizeBytes = 0;
  const timer = setTimeout(() => request.destroy(), DRAIN_TIMEOUT_MS);
  timer.unref();
  request.on("data", (chunk: Uint8Array) => {
    sizeBytes += chunk.length;
    if (sizeBytes > DRAIN_BYTES_MAX) request.destroy();
  });
  request.on("close", () => clearTimeout(timer));
  request.on("error", () => undefined);
  request.resume();
}

async function readText(request: IncomingMessage): Promise<string> {
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
      if (sizeBytes > JSON_BYTES_MAX) {
        throw new HttpError(413, ErrorCode.Usage, `the body is longer than ${JSON_BYTES_MAX} bytes`);
      }
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
