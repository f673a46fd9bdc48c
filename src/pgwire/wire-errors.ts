/**
 * Our errors on the wire. An ErrorResponse has a SQLSTATE for drivers, and in its detail our own code and data, so that
 * a NeonError that is thrown in one process is thrown again in the other:
 *
 *     DETAIL:  conflict {"writer":"dev"}
 */
import { ErrorCode, type ErrorData, NeonError, messageOf } from "../base/errors.ts";
import { ByteWriter } from "../base/bytes.ts";
import { Backend, type ServerMessage, decodeServerMessage } from "./backend.ts";
import { ServerError, SqlState } from "./errors.ts";

const SQL_STATES: Readonly<Record<ErrorCode, string>> = {
  failed: SqlState.InternalError,
  usage: SqlState.SyntaxError,
  not_found: SqlState.UndefinedObject,
  exists: SqlState.DuplicateObject,
  conflict: SqlState.ObjectInUse,
  unreachable: "08006",
  corrupt: "XX001",
  not_checked: "55000",
  resource: "53000",
  postgres: "58000",
  timeout: "57014",
  declined: "42501",
  unsupported: "0A000",
};

/** Far above any error of ours; a field that is longer is cut. */
const FIELD_LENGTH_MAX = 8000;

/** An error with a SQLSTATE of its own. */
export class WireError extends NeonError {
  readonly sqlState: string;

  constructor(
    sqlState: string,
    code: ErrorCode,
    message: string,
    options: { hint?: string | undefined; data?: ErrorData } = {},
  ) {
    super(code, message, options);
    this.name = "WireError";
    this.sqlState = sqlState;
  }
}

/** An ErrorResponse as a whole frame. FATAL says that the connection ends with it. */
export function encodeError(thrown: unknown, severity: "ERROR" | "FATAL" = "ERROR"): Uint8Array {
  const error =
    thrown instanceof NeonError
      ? thrown
      : new NeonError(ErrorCode.Failed, messageOf(thrown), { cause: thrown });
  const sqlState = error instanceof WireError ? error.sqlState : SQL_STATES[error.code];
  const hasData = Object.keys(error.data).length > 0;
  const detail = hasData ? `${error.code} ${JSON.stringify(error.data)}` : error.code;
  return encodeFields(Backend.ErrorResponse, {
    S: severity,
    V: severity,
    C: sqlState,
    M: error.message,
    // A detail that is cut could not be read again.
    D: detail.length <= FIELD_LENGTH_MAX ? detail : error.code,
    H: error.hint,
  });
}

/** Something that the client's user should know, although what was asked for is done. */
export function encodeWarning(message: string, hint: string): Uint8Array {
  return encodeFields(Backend.NoticeResponse, {
    S: "WARNING",
    V: "WARNING",
    C: WARNING_STATE,
    M: message,
    H: hint,
  });
}

function encodeFields(type: number, fields: Readonly<Record<string, string | undefined>>): Uint8Array {
  const writer = new ByteWriter().u8(type).i32be(0);
  for (const [letter, value] of Object.entries(fields)) {
    if (value === undefined) continue;
    writer.u8(letter.charCodeAt(0)).cstring(value.slice(0, FIELD_LENGTH_MAX).replaceAll("\0", ""));
  }
  writer.u8(0);
  return writer.patchI32be(1, writer.length - 1).finish();
}

const WARNING_STATE = "01000";

/** The error that an ErrorResponse tells of: one of ours as it was thrown, any other as a ServerError. */
export function errorFromResponse(body: Uint8Array): NeonError {
  const response = decodeServerMessage(body);
  return ownError(response) ?? new ServerError(response);
}

const DETAIL = /^([a-z_]+)(?: (\{.*\}))?$/s;

function ownError(response: ServerMessage): NeonError | undefined {
  const match = DETAIL.exec(response.detail ?? "");
  const code = Object.values(ErrorCode).find((known) => known === match?.[1]);
  if (code === undefined) return undefined;
  return new WireError(response.sqlState, code, response.message, {
    hint: response.hint,
    data: parseData(match?.[2]),
  });
}

/** Plain values only; anything else in a remote's answer is left out. */
function parseData(text: string | undefined): ErrorData {
  if (text === undefined) return {};
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return {};
  }
  const data: Record<string, string | number | boolean | null> = {};
  for (const [name, item] of Object.entries(value ?? {})) {
    const plain = item === null || ["string", "number", "boolean"].includes(typeof item);
    if (plain && name !== "__proto__") data[name] = item as string | number | boolean | null;
  }
  return data;
}
