/**
 * The client end of the protocol as pageservers and the command line use it among each other: text queries, CopyOut,
 * CopyIn and CopyBoth over one connection. (Following a Postgres as a standby is `client.ts`.)
 */
import { randomBytes } from "node:crypto";
import { type Socket, connect as connectSocket } from "node:net";
import { ErrorCode, NeonError, assert, corrupt, messageOf } from "../base/errors.ts";
import type { Random } from "../base/seams.ts";
import { ClientAuth } from "./auth.ts";
import { Backend, decodeDataRow, decodeRowDescription, describeFrame } from "./backend.ts";
import { CHANNEL_SILENCE_MS, COPY_DATA_SIZE_MAX, type Channel, CopyChannel } from "./channel.ts";
import { ServerError, SqlState } from "./errors.ts";
import { isLoopback } from "./loopback.ts";
import { FrameConnection } from "./frame-connection.ts";
import type { Frame } from "./frame.ts";
import {
  encodeCopyData,
  encodeCopyDone,
  encodeCopyFail,
  encodeQuery,
  encodeStartup,
  encodeTerminate,
} from "./frontend.ts";
import { ATTEMPTS, type Attempt, HandshakeError, noTls, requestTls } from "./tls-client.ts";
import { type LibpqTarget, formatTarget } from "./uri.ts";
import { WireError, errorFromResponse } from "./wire-errors.ts";

/** Rows that one query may return. */
const ROWS_MAX = 1_000_000;
/** How long goodbyes may take. */
const CLOSE_TIMEOUT_MS = 1000;

export interface QueryRows {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (string | null)[])[];
}

export interface ConnectOptions {
  readonly random?: Random;
  readonly applicationName?: string;
  /** How long the server may be silent where an answer is due. */
  readonly silenceMs?: number;
}

/**
 * Connects and logs in, with the target's own password and encryption as its `sslmode` says. The signal destroys the
 * connection whenever it comes. Throws `unreachable`, `timeout`, or the server's error.
 */
export async function connectLibpq(
  target: LibpqTarget,
  signal?: AbortSignal,
  options: ConnectOptions = {},
): Promise<LibpqClient> {
  let first: unknown;
  for (const attempt of ATTEMPTS[target.sslMode]) {
    try {
      return await LibpqClient.connect(target, attempt, signal, options);
    } catch (error) {
      if (!worthAnother(error)) throw error;
      // It says why the way that is preferred does not work.
      first ??= error;
    }
  }
  throw first;
}

/** Whether it may work with (or without) encryption: the handshake failed, or the server lets nobody in this way. */
function worthAnother(error: unknown): boolean {
  if (error instanceof HandshakeError) return true;
  const refused = error instanceof WireError || error instanceof ServerError;
  return refused && error.sqlState === SqlState.InvalidAuthorization;
}

export class LibpqClient implements AsyncDisposable {
  /** Whether the connection is encrypted. */
  readonly encrypted: boolean;
  private readonly connection: FrameConnection;
  private readonly silenceMs: number;
  /** A copy that has not been seen to its end. */
  private copy: CopyChannel | undefined;

  private constructor(connection: FrameConnection, encrypted: boolean, silenceMs: number) {
    this.connection = connection;
    this.encrypted = encrypted;
    this.silenceMs = silenceMs;
  }

  /** One attempt of `connectLibpq`. */
  static async connect(
    target: LibpqTarget,
    attempt: Attempt,
    signal: AbortSignal | undefined,
    options: ConnectOptions,
  ): Promise<LibpqClient> {
    signal?.throwIfAborted();
    const raw = connectSocket({ host: target.host, port: target.port, noDelay: true, keepAlive: true });
    // Whoever reads the socket gets the error as well; without a listener it would end the process.
    raw.on("error", () => undefined);
    let reason: unknown;
    const destroy = (why: unknown): void => {
      reason ??= why;
      raw.destroy();
    };
    const timer = setTimeout(() => {
      const seconds = target.connectTimeoutMs / 1000;
      destroy(new NeonError(ErrorCode.Timeout, `${formatTarget(target)} did not answer within ${seconds} s`));
    }, target.connectTimeoutMs);
    const onAbort = (): void => destroy(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
    raw.once("close", () => signal?.removeEventListener("abort", onAbort));
    try {
      await connected(raw, target);
      const { socket, encrypted } = await encrypt(raw, target, attempt);
      const connection = new FrameConnection(socket, {
        bodySizeMax: COPY_DATA_SIZE_MAX,
        peer: formatTarget(target),
      });
      const client = new LibpqClient(connection, encrypted, options.silenceMs ?? CHANNEL_SILENCE_MS);
      await client.logIn(target, options);
      if (signal) signal.addEventListener("abort", () => connection.destroy(signal.reason), { once: true });
      return client;
    } catch (error) {
      raw.destroy();
      throw reason ?? error;
    } finally {
      clearTimeout(timer);
    }
  }

  get bytesSent(): number {
    return this.connection.bytesSent;
  }

  get bytesReceived(): number {
    return this.connection.bytesReceived;
  }

  /** Runs one statement and returns its rows as text. Throws the server's error; the connection stays usable. */
  async query(command: string): Promise<QueryRows> {
    await this.begin(command);
    let columns: readonly string[] = [];
    const rows: (string | null)[][] = [];
    for (;;) {
      const frame = await this.pull();
      switch (frame.type) {
        case Backend.RowDescription:
          columns = decodeRowDescription(frame.body);
          break;
        case Backend.DataRow:
          if (rows.length >= ROWS_MAX) throw this.unexpected(frame, `behind ${ROWS_MAX} rows`);
          rows.push(decodeDataRow(frame.body));
          break;
        case Backend.CommandComplete:
        case Backend.EmptyQueryResponse:
          break;
        case Backend.ReadyForQuery:
          return { columns, rows };
        default:
          await this.expectNothingElse(frame, "in answer to a query");
      }
    }
  }

  /** Runs a statement that is answered by CopyOut. Whoever stops reading it early closes the connection. */
  async *copyOut(command: string): AsyncGenerator<Uint8Array> {
    await this.begin(command);
    await this.answer(Backend.CopyOutResponse);
    const channel = new CopyChannel(this.connection, "client", this.silenceMs);
    this.copy = channel;
    let complete = false;
    try {
      for (;;) {
        const payload = await this.receive(channel);
        if (payload === undefined) break;
        yield payload;
      }
      await this.endOfCopy();
      complete = true;
    } finally {
      if (!complete && this.copy === channel) this.destroy();
    }
  }

  /** Runs a statement that is answered by CopyIn, and sends what it wants. */
  async copyIn(command: string, source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<void> {
    await this.begin(command);
    await this.answer(Backend.CopyInResponse);
    try {
      for await (const payload of source) {
        for (let at = 0; at < payload.length; at += COPY_DATA_SIZE_MAX) {
          await this.connection.write(encodeCopyData(payload.subarray(at, at + COPY_DATA_SIZE_MAX)));
        }
      }
    } catch (error) {
      await this.connection.write(encodeCopyFail(messageOf(error))).catch(() => undefined);
      await this.untilReady().catch(() => undefined);
      throw error;
    }
    await this.connection.write(encodeCopyDone());
    await this.untilReady();
  }

  /** Runs a statement that is answered by CopyBoth. Nothing else can be asked until both sides have ended. */
  async copyBoth(command: string): Promise<Channel> {
    await this.begin(command);
    await this.answer(Backend.CopyBothResponse);
    const channel = new CopyChannel(this.connection, "client", this.silenceMs);
    this.copy = channel;
    return channel;
  }

  /** Closes at once; `reason` is what readers get. */
  destroy(reason?: unknown): void {
    this.connection.destroy(reason);
  }

  /** Says goodbye, if the connection still stands, and waits until the socket is closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.connection.write(encodeTerminate()).catch(() => undefined);
    await this.connection.close(CLOSE_TIMEOUT_MS);
  }

  private async logIn(target: LibpqTarget, options: ConnectOptions): Promise<void> {
    const random = options.random ?? { bytes: (count: number) => new Uint8Array(randomBytes(count)) };
    const auth = new ClientAuth({ user: target.user, password: target.password }, random, {
      isPrivate: this.encrypted || isLoopback(this.connection.socket.remoteAddress),
    });
    const startup = encodeStartup({
      user: target.user,
      ...(target.database === undefined ? {} : { database: target.database }),
      application_name: options.applicationName ?? "neon",
      client_encoding: "UTF8",
    });
    await this.connection.write(startup);
    for (;;) {
      const frame = await this.pull();
      switch (frame.type) {
        case Backend.Authentication: {
          const answer = await auth.answer(frame.body);
          if (answer) await this.connection.write(answer);
          break;
        }
        case Backend.ReadyForQuery:
          if (!auth.done) throw corrupt("the server is ready before it let us in");
          return;
        case Backend.ErrorResponse:
          throw errorFromResponse(frame.body);
        case Backend.BackendKeyData:
        case Backend.NegotiateProtocolVersion:
          break;
        default:
          this.expectNotice(frame, "during the login");
      }
    }
  }

  private async begin(command: string): Promise<void> {
    if (this.copy) await this.endOfCopy();
    await this.connection.write(encodeQuery(command));
  }

  /** The answer that begins a copy. */
  private async answer(type: number): Promise<void> {
    for (;;) {
      const frame = await this.pull();
      if (frame.type === type) return;
      await this.expectNothingElse(frame, "in place of the start of a copy");
    }
  }

  private async receive(channel: CopyChannel): Promise<Uint8Array | undefined> {
    try {
      return await channel.receive();
    } catch (error) {
      if (channel.otherEnded) {
        // The server's error: the connection is good for more.
        await this.endOfCopy().catch(() => undefined);
      }
      throw error;
    }
  }

  /** After a copy of which the server has seen the end. */
  private async endOfCopy(): Promise<void> {
    const { copy } = this;
    assert(copy === undefined || copy.otherEnded, "the copy before has ended");
    this.copy = undefined;
    await this.untilReady();
  }

  private async untilReady(): Promise<void> {
    for (;;) {
      const frame = await this.pull();
      if (frame.type === Backend.ReadyForQuery) return;
      if (frame.type === Backend.CommandComplete) continue;
      await this.expectNothingElse(frame, "behind the end of a copy");
    }
  }

  /** Errors are thrown when the server is ready again; notices pass; anything else ends the connection. */
  private async expectNothingElse(frame: Frame, where: string): Promise<void> {
    if (frame.type !== Backend.ErrorResponse) {
      this.expectNotice(frame, where);
      return;
    }
    const error = errorFromResponse(frame.body);
    for (;;) {
      // A server that ends the connection says nothing more.
      const next = await this.pull().catch(() => undefined);
      if (!next || next.type === Backend.ReadyForQuery) throw error;
    }
  }

  private expectNotice(frame: Frame, where: string): void {
    switch (frame.type) {
      case Backend.NoticeResponse:
      case Backend.NotificationResponse:
      case Backend.ParameterStatus:
        return;
      default:
        throw this.unexpected(frame, where);
    }
  }

  private async pull(): Promise<Frame> {
    const frame = await this.connection.next(this.silenceMs);
    if (!frame) throw new NeonError(ErrorCode.Unreachable, "the server closed the connection");
    return frame;
  }

  private unexpected(frame: Frame, where: string): NeonError {
    const error = corrupt(`${describeFrame(frame)} ${where}`, { type: frame.type });
    this.destroy(error);
    return error;
  }
}

async function connected(socket: Socket, target: LibpqTarget): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.once("connect", resolve);
  socket.once("error", (error) =>
    reject(
      new NeonError(ErrorCode.Unreachable, `${formatTarget(target)}: ${messageOf(error)}`, {
        hint: "Check host and port, and that the pageserver there is running and listens for libpq.",
        cause: error,
      }),
    ),
  );
  socket.once("close", () => reject(new NeonError(ErrorCode.Unreachable, "the connection was closed")));
  await promise;
}

async function encrypt(
  raw: Socket,
  target: LibpqTarget,
  attempt: Attempt,
): Promise<{ socket: Socket; encrypted: boolean }> {
  if (attempt === "plain") return { socket: raw, encrypted: false };
  const secure = await requestTls(raw, target);
  if (secure) return { socket: secure, encrypted: true };
  if (attempt === "tls") throw noTls(target);
  return { socket: raw, encrypted: false };
}
