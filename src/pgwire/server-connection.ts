/**
 * One client of a server that speaks the frontend/backend protocol: start-up, login, then statements one after the
 * other, in the simple and the extended query protocol.
 * Source: PostgreSQL 17 documentation, "Message Flow".
 */
import { randomInt } from "node:crypto";
import type { Socket } from "node:net";
import { ByteReader } from "../base/bytes.ts";
import { ErrorCode, NeonError, corrupt } from "../base/errors.ts";
import type { Random } from "../base/seams.ts";
import { describeFrame } from "./backend.ts";
import { COPY_DATA_SIZE_MAX } from "./channel.ts";
import {
  encodeBackendKeyData,
  encodeEmptyQueryResponse,
  encodeParameterStatus,
  encodeReadyForQuery,
} from "./encode-backend.ts";
import { ExtendedQuery } from "./extended-query.ts";
import { FrameConnection } from "./frame-connection.ts";
import type { Frame } from "./frame.ts";
import { Frontend } from "./frontend.ts";
import { isLoopback } from "./loopback.ts";
import { type ServerTls, authenticate, negotiate, negotiateVersion } from "./server-startup.ts";
import { StatementRun } from "./statement-run.ts";
import type { Backends, Statement, Statements } from "./statement.ts";
import { WireError, encodeError } from "./wire-errors.ts";

/** Longest message before the client is let in; as Postgres' PG_MAX_AUTH_TOKEN_LENGTH. */
const LOGIN_MESSAGE_SIZE_MAX = 65_535;
/** How long the last words to a client may take. */
const CLOSE_TIMEOUT_MS = 2000;
const USER_NAME_LENGTH_MAX = 200;
/** Longest time of a timer, 24 days: nobody stays connected for longer. */
const TIMER_MAX_MS = 2 ** 31 - 1;

export interface ServerLimits {
  /** From the connection to the end of the login. */
  readonly startupTimeoutMs: number;
  /** How long a client may ask for nothing. */
  readonly idleTimeoutMs: number;
  /** How long a client may take nothing of what it is sent. */
  readonly writeStallMs: number;
}

/** What all connections of a server have in common. */
export interface ServerContext<Identity> {
  readonly backends: Backends<Identity>;
  readonly limits: ServerLimits;
  /** Read for each connection, so that a new certificate holds at once. */
  readonly tls: () => ServerTls | undefined;
  readonly random: Random;
  /** Cancels the statement of another connection, if process id and secret are its. */
  readonly cancel: (processId: number, secret: number) => void;
  /** Told of a client that has been let in. */
  readonly onLogin: (user: string, encrypted: boolean) => void;
}

/** Told to every client, since drivers branch on them. The version is the one that the protocol's original names. */
const PARAMETERS: readonly (readonly [string, string])[] = [
  ["server_version", "14.1"],
  ["server_encoding", "UTF8"],
  ["client_encoding", "UTF8"],
  ["DateStyle", "ISO, MDY"],
  ["integer_datetimes", "on"],
  ["standard_conforming_strings", "on"],
];

export class ServerConnection<Identity> {
  readonly processId: number;
  readonly secret = randomInt(2 ** 31);
  /** How the client is called in the log. */
  readonly peer: string;
  private readonly context: ServerContext<Identity>;
  private socket: Socket;
  private connection: FrameConnection | undefined;
  private statement: AbortController | undefined;
  private stopping: NeonError | undefined;

  constructor(socket: Socket, processId: number, context: ServerContext<Identity>) {
    this.socket = socket;
    this.processId = processId;
    this.context = context;
    this.peer = `${socket.remoteAddress ?? "client"}:${socket.remotePort ?? 0}`;
  }

  /** Serves until one side has enough. Throws what ended the connection in disorder; the socket is closed either way. */
  async serve(): Promise<void> {
    const { startupTimeoutMs } = this.context.limits;
    const timer = setTimeout(() => this.socket.destroy(), startupTimeoutMs);
    try {
      const beginning = await negotiate(this.socket, this.context.tls(), (socket) => {
        this.socket = socket;
      });
      if (!beginning) return;
      if (beginning.kind === "cancel") {
        this.context.cancel(beginning.processId, beginning.secret);
        return;
      }
      const { minor, parameters, encrypted } = beginning;
      const connection = new FrameConnection(this.socket, {
        bodySizeMax: LOGIN_MESSAGE_SIZE_MAX,
        peer: this.peer,
        writeStallMs: this.context.limits.writeStallMs,
      });
      this.connection = connection;
      await negotiateVersion(connection, minor, parameters);
      const { identity, statements } = await this.logIn(connection, parameters, encrypted);
      clearTimeout(timer);
      connection.bodySizeMax = COPY_DATA_SIZE_MAX;
      const expiry = this.expire(identity);
      try {
        await this.serveStatements(connection, identity, statements);
      } finally {
        clearTimeout(expiry);
        statements[Symbol.dispose]?.();
      }
    } catch (error) {
      await this.sayFatal(error);
      throw error;
    } finally {
      clearTimeout(timer);
      await this.close();
    }
  }

  /** Ends the statement under way, if there is one, with this error. */
  cancelStatement(reason: NeonError): void {
    this.statement?.abort(reason);
  }

  /** Ends the connection: at once where nothing is under way, else after the statement, which is told to stop. */
  stop(reason: NeonError): void {
    this.stopping = reason;
    if (this.statement) this.statement.abort(reason);
    else void this.sayFatal(reason).finally(() => this.destroy());
  }

  /** Ends the connection of a client whose time is limited. */
  private expire(identity: Identity): NodeJS.Timeout | undefined {
    const expiry = this.context.backends.expiry?.(identity);
    return (
      expiry &&
      setTimeout(() => this.stop(expiry.reason), Math.min(Math.max(expiry.inMs, 0), TIMER_MAX_MS)).unref()
    );
  }

  destroy(): void {
    this.connection?.destroy();
    this.socket.destroy();
  }

  private async logIn(
    connection: FrameConnection,
    parameters: ReadonlyMap<string, string>,
    encrypted: boolean,
  ): Promise<{ identity: Identity; statements: Statements<Identity> & Partial<Disposable> }> {
    const { context } = this;
    const user = parameters.get("user") ?? "";
    if (user === "" || user.length > USER_NAME_LENGTH_MAX) {
      throw new WireError("28000", ErrorCode.Usage, "the start-up packet names no user");
    }
    const loopback = isLoopback(this.socket.remoteAddress);
    const caller = { user, parameters, encrypted, loopback };
    const admission = context.backends.admit(caller);
    const identity = await authenticate(connection, admission, {
      user,
      random: context.random,
      certificateHash: encrypted ? context.tls()?.certificateHash : undefined,
      timeoutMs: context.limits.startupTimeoutMs,
    });
    const own = context.backends.open?.(caller, identity);
    context.onLogin(user, encrypted);
    const told = new Map([...PARAMETERS, ...(own?.parameters ?? [])]);
    const status = [...told].map(([name, value]) => encodeParameterStatus(name, value));
    const keys = encodeBackendKeyData(this.processId, this.secret);
    await connection.write(Buffer.concat([...status, keys, encodeReadyForQuery()]));
    return { identity, statements: own ?? context.backends };
  }

  private async serveStatements(
    connection: FrameConnection,
    identity: Identity,
    statements: Statements<Identity>,
  ): Promise<void> {
    const run = (
      statement: Statement<Identity>,
      describe: boolean,
      formats: readonly number[],
    ): Promise<void> => this.run(connection, identity, statement, describe, formats);
    const extended = new ExtendedQuery<Identity>(connection, statements, (statement, formats) =>
      run(statement, false, formats),
    );
    for (;;) {
      if (this.stopping) throw this.stopping;
      const frame = await this.nextMessage(connection);
      if (!frame || frame.type === Frontend.Terminate) return;
      switch (frame.type) {
        case Frontend.Query:
          extended.reset();
          await this.simpleQuery(connection, frame, statements, (statement) => run(statement, true, []));
          break;
        // What is left of a copy that has failed.
        case Frontend.CopyData:
        case Frontend.CopyDone:
        case Frontend.CopyFail:
          break;
        case Frontend.FunctionCall:
          await connection.write(encodeError(new NeonError(ErrorCode.Unsupported, "there are no functions")));
          await connection.write(encodeReadyForQuery());
          break;
        default:
          if (await extended.take(frame)) break;
          throw protocolViolation(frame);
      }
    }
  }

  private async nextMessage(connection: FrameConnection): Promise<Frame | undefined> {
    const { idleTimeoutMs } = this.context.limits;
    try {
      return await connection.next(idleTimeoutMs);
    } catch (error) {
      if (error instanceof NeonError && error.code === ErrorCode.Timeout) {
        throw new WireError(
          "57P05",
          ErrorCode.Timeout,
          `the connection is closed: nothing was asked for ${idleTimeoutMs / 1000} s`,
        );
      }
      throw error;
    }
  }

  private async simpleQuery(
    connection: FrameConnection,
    frame: Frame,
    statements: Statements<Identity>,
    run: (statement: Statement<Identity>) => Promise<void>,
  ): Promise<void> {
    try {
      const reader = new ByteReader(frame.body);
      const text = reader.cstring();
      if (reader.remaining > 0) throw corrupt(`${reader.remaining} bytes behind the end of a query`);
      const statement = statements.prepare(text);
      if (statement) await run(statement);
      else await connection.write(encodeEmptyQueryResponse());
    } catch (error) {
      await connection.write(encodeError(error));
    }
    await connection.write(encodeReadyForQuery());
  }

  private async run(
    connection: FrameConnection,
    identity: Identity,
    statement: Statement<Identity>,
    describe: boolean,
    formats: readonly number[],
  ): Promise<void> {
    const abort = new AbortController();
    this.statement = abort;
    const signal = AbortSignal.any([abort.signal, connection.signal]);
    const session = new StatementRun(connection, statement, { identity, signal, describe, formats });
    try {
      await session.complete(await statement.run(session));
    } catch (error) {
      // Whatever the abort made fail, its reason is what the client should read.
      throw abort.signal.aborted ? abort.signal.reason : error;
    } finally {
      this.statement = undefined;
    }
  }

  /** As last words: nobody may be there to hear them. */
  private async sayFatal(error: unknown): Promise<void> {
    const { connection } = this;
    if (!connection) {
      // Before the login there may be only a socket; after a handshake that failed not even that.
      if (!this.socket.destroyed && this.socket.writable) this.socket.write(encodeError(error, "FATAL"));
      return;
    }
    await connection.write(encodeError(error, "FATAL")).catch(() => undefined);
  }

  private async close(): Promise<void> {
    if (this.connection) await this.connection.close(CLOSE_TIMEOUT_MS);
    else this.socket.destroySoon();
    const timer = setTimeout(() => this.socket.destroy(), CLOSE_TIMEOUT_MS);
    timer.unref();
    this.socket.once("close", () => clearTimeout(timer));
  }
}

function protocolViolation(frame: Frame): WireError {
  return new WireError("08P01", ErrorCode.Corrupt, `unexpected ${describeFrame(frame)}`);
}
