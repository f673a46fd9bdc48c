/**
 * Messages that a server sends, decoded from frames. Big-endian. Every count and length is checked against what is
 * really there.
 * Source: PostgreSQL 17 documentation, "Message Formats" and "Error and Notice Message Fields".
 */
import { ByteReader } from "../base/bytes.ts";
import { corrupt } from "../base/errors.ts";
import type { Frame } from "./frame.ts";

/** Type bytes of backend messages. */
export const Backend = {
  Authentication: 0x52,
  BackendKeyData: 0x4b,
  CommandComplete: 0x43,
  CopyBothResponse: 0x57,
  CopyData: 0x64,
  CopyDone: 0x63,
  CopyInResponse: 0x47,
  CopyOutResponse: 0x48,
  DataRow: 0x44,
  EmptyQueryResponse: 0x49,
  ErrorResponse: 0x45,
  NegotiateProtocolVersion: 0x76,
  NoticeResponse: 0x4e,
  NotificationResponse: 0x41,
  ParameterStatus: 0x53,
  ReadyForQuery: 0x5a,
  RowDescription: 0x54,
} as const;

/** Fields of an ErrorResponse or NoticeResponse. */
export interface ServerMessage {
  /** Never translated: ERROR, FATAL, PANIC, WARNING, NOTICE… */
  readonly severity: string;
  readonly sqlState: string;
  readonly message: string;
  readonly detail: string | undefined;
  readonly hint: string | undefined;
}

/** Decodes the body of an ErrorResponse or NoticeResponse. */
export function decodeServerMessage(body: Uint8Array): ServerMessage {
  const reader = new ByteReader(body);
  const fields = new Map<number, string>();
  for (;;) {
    const field = reader.u8();
    if (field === 0) break;
    fields.set(field, reader.cstring());
  }
  const text = (letter: string): string | undefined => fields.get(letter.charCodeAt(0));
  return {
    severity: text("V") ?? text("S") ?? "ERROR",
    sqlState: text("C") ?? "XX000",
    message: text("M") ?? "(no message)",
    detail: text("D"),
    hint: text("H"),
  };
}

/** Decodes a DataRow whose values are text; null is SQL's NULL. */
export function decodeDataRow(body: Uint8Array): (string | null)[] {
  const reader = new ByteReader(body);
  const count = reader.u16be();
  const values: (string | null)[] = [];
  for (let i = 0; i < count; i++) {
    const length = reader.i32be();
    if (length < -1) throw corrupt(`column ${i} of a row claims length ${length}`, { column: i, length });
    values.push(length === -1 ? null : reader.utf8(length));
  }
  return values;
}

/** Decodes the names of the columns of a RowDescription. */
export function decodeRowDescription(body: Uint8Array): string[] {
  const reader = new ByteReader(body);
  const names: string[] = [];
  for (let count = reader.u16be(); count > 0; count--) {
    names.push(reader.cstring());
    // Table, attribute, type, its length and modifier, format.
    reader.skip(18);
  }
  return names;
}

/** Decodes a CommandComplete's tag, such as `SELECT 1`. */
export function decodeCommandTag(body: Uint8Array): string {
  return new ByteReader(body).cstring();
}

/** What a frame of a type that nobody asked for is called in an error. */
export function describeFrame(frame: Frame): string {
  return `message '${String.fromCharCode(frame.type)}' of ${frame.body.length} bytes`;
}
