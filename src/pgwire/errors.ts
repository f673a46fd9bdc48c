/** Errors that a Postgres server reported, with their SQLSTATE, so that callers can tell them apart. */
import { ErrorCode, NeonError } from "../base/errors.ts";
import type { ServerMessage } from "./backend.ts";

/** SQLSTATEs that we act upon. Source: PostgreSQL 17 documentation, "PostgreSQL Error Codes". */
export const SqlState = {
  InvalidPassword: "28P01",
  InvalidAuthorization: "28000",
  InvalidCatalogName: "3D000",
  UndefinedObject: "42704",
  DuplicateObject: "42710",
  SyntaxError: "42601",
  ObjectInUse: "55006",
  AdminShutdown: "57P01",
  CrashShutdown: "57P02",
  CannotConnectNow: "57P03",
  UndefinedFile: "58P01",
  TooManyConnections: "53300",
  InternalError: "XX000",
} as const;

/** An ErrorResponse. */
export class ServerError extends NeonError {
  readonly sqlState: string;
  readonly severity: string;

  constructor(server: ServerMessage) {
    const detail = server.detail === undefined ? "" : ` (${server.detail})`;
    super(ErrorCode.Postgres, `Postgres: ${server.message}${detail}`, {
      hint: server.hint,
      data: { sql_state: server.sqlState, severity: server.severity },
    });
    this.name = "ServerError";
    this.sqlState = server.sqlState;
    this.severity = server.severity;
  }
}
