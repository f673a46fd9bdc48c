/**
 * Messages that a client sends, as bytes. Big-endian.
 * Source: PostgreSQL 17 documentation, "Message Formats".
 */
import { ByteWriter } from "../base/bytes.ts";

/** Protocol 3.0. */
export const PROTOCOL_VERSION = 196608;

/** StartupMessage: parameters as name/value pairs; carries no type byte. */
export function encodeStartup(parameters: Readonly<Record<string, string>>): Uint8Array {
  const writer = new ByteWriter().i32be(0).i32be(PROTOCOL_VERSION);
  for (const [name, value] of Object.entries(parameters)) writer.cstring(name).cstring(value);
  writer.u8(0);
  return writer.patchI32be(0, writer.length).finish();
}

/** Query: one text of one or more statements. */
export const encodeQuery = (text: string): Uint8Array => frame("Q", (w) => w.cstring(text));

/** PasswordMessage: clear text, or the MD5 answer. */
export const encodePassword = (text: string): Uint8Array => frame("p", (w) => w.cstring(text));

/** SASLInitialResponse. */
export const encodeSaslInitial = (mechanism: string, response: Uint8Array): Uint8Array =>
  frame("p", (w) => w.cstring(mechanism).i32be(response.length).bytes(response));

/** SASLResponse. */
export const encodeSaslResponse = (response: Uint8Array): Uint8Array => frame("p", (w) => w.bytes(response));

export const encodeCopyData = (bytes: Uint8Array): Uint8Array => frame("d", (w) => w.bytes(bytes));
export const encodeCopyDone = (): Uint8Array => frame("c", (w) => w);
export const encodeTerminate = (): Uint8Array => frame("X", (w) => w);

function frame(type: string, body: (writer: ByteWriter) => ByteWriter): Uint8Array {
  const writer = new ByteWriter().u8(type.charCodeAt(0)).i32be(0);
  body(writer);
  return writer.patchI32be(1, writer.length - 1).finish();
}
