/**
 * Messages that a server sends, as bytes. Big-endian. Values are text (format 0) unless it says otherwise.
 * Source: PostgreSQL 17 documentation, "Message Formats".
 */
import { ByteWriter } from "../base/bytes.ts";
import { Backend } from "./backend.ts";

/** Types that our columns have, with Postgres' OIDs and lengths (-1: varies). */
export const ColumnType = {
  text: { oid: 25, length: -1 },
  int8: { oid: 20, length: 8 },
} as const;

export interface Column {
  readonly name: string;
  readonly type: keyof typeof ColumnType;
}

/** Request codes in an Authentication message. */
export const AuthenticationRequest = {
  Ok: 0,
  CleartextPassword: 3,
  Md5Password: 5,
  Sasl: 10,
  SaslContinue: 11,
  SaslFinal: 12,
} as const;

const TEXT_FORMAT = 0;
const BINARY_FORMAT = 1;

export const encodeAuthenticationOk = (): Uint8Array =>
  frame(Backend.Authentication, (w) => w.u32be(AuthenticationRequest.Ok));

export const encodeAuthenticationCleartext = (): Uint8Array =>
  frame(Backend.Authentication, (w) => w.u32be(AuthenticationRequest.CleartextPassword));

/** The mechanisms that the client may choose from. */
export const encodeAuthenticationSasl = (mechanisms: readonly string[]): Uint8Array =>
  frame(Backend.Authentication, (w) => {
    w.u32be(AuthenticationRequest.Sasl);
    for (const mechanism of mechanisms) w.cstring(mechanism);
    return w.u8(0);
  });

export const encodeSaslContinue = (message: string): Uint8Array =>
  frame(Backend.Authentication, (w) => w.u32be(AuthenticationRequest.SaslContinue).utf8(message));

export const encodeSaslFinal = (message: string): Uint8Array =>
  frame(Backend.Authentication, (w) => w.u32be(AuthenticationRequest.SaslFinal).utf8(message));

export const encodeParameterStatus = (name: string, value: string): Uint8Array =>
  frame(Backend.ParameterStatus, (w) => w.cstring(name).cstring(value));

/** What a CancelRequest must show. */
export const encodeBackendKeyData = (processId: number, secret: number): Uint8Array =>
  frame(Backend.BackendKeyData, (w) => w.i32be(processId).i32be(secret));

/** Idle: there are no transactions here. `E` and `T` never occur. */
export const encodeReadyForQuery = (): Uint8Array => frame(Backend.ReadyForQuery, (w) => w.u8(0x49));

/** The client's protocol is newer, or it wants options (`_pq_.…`) that we do not have. */
export const encodeNegotiateProtocolVersion = (
  minor: number,
  unknownOptions: readonly string[],
): Uint8Array =>
  frame(Backend.NegotiateProtocolVersion, (w) => {
    w.i32be(minor).i32be(unknownOptions.length);
    for (const option of unknownOptions) w.cstring(option);
    return w;
  });

/** The format of a column, by the codes of a Bind message: none (all text), one for all, or one for each. */
function formatOf(formats: readonly number[], index: number): number {
  return (formats.length <= 1 ? formats[0] : formats[index]) ?? TEXT_FORMAT;
}

export function encodeRowDescription(
  columns: readonly Column[],
  formats: readonly number[] = [],
): Uint8Array {
  return frame(Backend.RowDescription, (w) => {
    w.u16be(columns.length);
    for (const [index, { name, type }] of columns.entries()) {
      const { oid, length } = ColumnType[type];
      // Table and attribute number (none), type, its length, no modifier, format.
      w.cstring(name).u32be(0).u16be(0).u32be(oid).i16be(length).i32be(-1).u16be(formatOf(formats, index));
    }
    return w;
  });
}

/** Values are given as text; those of binary columns are converted. */
export function encodeDataRow(
  values: readonly (string | null)[],
  columns: readonly Column[],
  formats: readonly number[] = [],
): Uint8Array {
  return frame(Backend.DataRow, (w) => {
    w.u16be(values.length);
    for (const [index, value] of values.entries()) {
      if (value === null) {
        w.i32be(-1);
      } else if (columns[index]?.type === "int8" && formatOf(formats, index) === BINARY_FORMAT) {
        w.i32be(8).i64be(BigInt(value));
      } else {
        // Text is the same in both formats.
        const bytes = Buffer.from(value, "utf8");
        w.i32be(bytes.length).bytes(bytes);
      }
    }
    return w;
  });
}

export const encodeCommandComplete = (tag: string): Uint8Array =>
  frame(Backend.CommandComplete, (w) => w.cstring(tag));

export const encodeEmptyQueryResponse = (): Uint8Array => frame(Backend.EmptyQueryResponse, (w) => w);

export const encodeCopyOutResponse = (): Uint8Array => copyResponse(Backend.CopyOutResponse, TEXT_FORMAT);
export const encodeCopyBothResponse = (): Uint8Array => copyResponse(Backend.CopyBothResponse, TEXT_FORMAT);
export const encodeCopyInResponse = (): Uint8Array => copyResponse(Backend.CopyInResponse, BINARY_FORMAT);

export const ParseComplete = 0x31;
export const BindComplete = 0x32;
export const CloseComplete = 0x33;
export const NoData = 0x6e;
export const PortalSuspended = 0x73;
const ParameterDescription = 0x74;

/** A message without a body. */
export const encodeEmpty = (type: number): Uint8Array => frame(type, (w) => w);

/** Our statements have no parameters. */
export const encodeParameterDescription = (): Uint8Array => frame(ParameterDescription, (w) => w.u16be(0));

/** Overall format, then zero columns. */
function copyResponse(type: number, format: number): Uint8Array {
  return frame(type, (w) => w.u8(format).u16be(0));
}

function frame(type: number, body: (writer: ByteWriter) => ByteWriter): Uint8Array {
  const writer = new ByteWriter(64).u8(type).i32be(0);
  body(writer);
  return writer.patchI32be(1, writer.length - 1).finish();
}
