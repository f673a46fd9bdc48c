/**
 * Messages that a client sends, as bytes. Big-endian.
 * Source: PostgreSQL 17 documentation, "Message Formats".
 */
import { ByteWriter } from "../base/bytes.ts";

/** Protocol 3.0. */
export const PROTOCOL_VERSION = 196608;

/** Type bytes of frontend messages. */
export const Frontend = {
  Bind: 0x42,
  Close: 0x43,
  CopyData: 0x64,
  CopyDone: 0x63,
  CopyFail: 0x66,
  Describe: 0x44,
  Execute: 0x45,
  Flush: 0x48,
  FunctionCall: 0x46,
  Parse: 0x50,
  /** Also SASLInitialResponse and SASLResponse. */
  Password: 0x70,
  Query: 0x51,
  Sync: 0x53,
  Terminate: 0x58,
} as const;

/** Codes in the place of a protocol version in a start-up packet. */
export const RequestCode = { Cancel: 80877102, Ssl: 80877103, GssEncryption: 80877104 } as const;

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

/** CopyData, in a buffer of just the right size: payloads may be large. */
export function encodeCopyData(payload: Uint8Array): Uint8Array {
  return encodeCopyDatas([payload]);
}

/** What stands before the payload of a CopyData. */
export function encodeCopyDataHead(payloadLength: number): Uint8Array {
  return new ByteWriter(5)
    .u8(Frontend.CopyData)
    .u32be(4 + payloadLength)
    .finish();
}

/** One CopyData for each payload, one behind the other. */
export function encodeCopyDatas(payloads: readonly Uint8Array[]): Uint8Array {
  const head = 5;
  let size = 0;
  for (const payload of payloads) size += head + payload.length;
  const bytes = Buffer.allocUnsafeSlow(size);
  let at = 0;
  for (const payload of payloads) {
    bytes[at] = Frontend.CopyData;
    bytes.writeUInt32BE(head - 1 + payload.length, at + 1);
    bytes.set(payload, at + head);
    at += head + payload.length;
  }
  return bytes;
}

export const encodeCopyFail = (reason: string): Uint8Array => frame("f", (w) => w.cstring(reason));
export const encodeCopyDone = (): Uint8Array => frame("c", (w) => w);
export const encodeTerminate = (): Uint8Array => frame("X", (w) => w);

/** SSLRequest: carries no type byte. */
export const encodeSslRequest = (): Uint8Array => new ByteWriter(8).i32be(8).i32be(RequestCode.Ssl).finish();

/** CancelRequest: carries no type byte. */
export const encodeCancelRequest = (processId: number, secret: number): Uint8Array =>
  new ByteWriter(16).i32be(16).i32be(RequestCode.Cancel).i32be(processId).i32be(secret).finish();

function frame(type: string, body: (writer: ByteWriter) => ByteWriter): Uint8Array {
  const writer = new ByteWriter().u8(type.charCodeAt(0)).i32be(0);
  body(writer);
  return writer.patchI32be(1, writer.length - 1).finish();
}
