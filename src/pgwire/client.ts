/**
 * The client end of one connection to a Postgres server: start-up and authentication, simple queries with text rows,
 * and CopyBoth for replication. Reads only what somebody wants: while nobody does, the socket is paused and the
 * server waits.
 */
import { randomBytes } from "node:crypto";
import { type Socket, connect as connectSocket } from "node:net";
import { TLSSocket } from "node:tls";
import { ErrorCode, NeonError, assert, corrupt, messageOf } from "../base/errors.ts";
import type { Random } from "../base/seams.ts";
import { ClientAuth, type Credentials } from "./auth.ts";
import { Backend, decodeCommandTag, decodeDataRow, decodeServerMessage, describeFrame } from "./backend.ts";
import { ServerError, SqlState } from "./errors.ts";
import { type Frame, FrameReader } from "./frame.ts";
import { encodeQuery, encodeStartup, encodeTerminate } from "./frontend.ts";
import { isLoopback } from "./loopback.ts";
import { ATTEMPTS, type Attempt, HandshakeError, noTls, requestTls } from "./tls-client.ts";
import type { LibpqTarget, SslMode } from "./uri.ts";

/** Holds the longest message of a walsender (128 KiB of WAL) with its head. */
const READ_BUFFER_SIZE = 2 ** 18;
/** Rows that one query may return; ours return a handful. */
const ROWS_MAX = 100_000;

/** Where a server listens: a socket directory, or a host; the directory wins when both are given. */
export interface ServerAddress {
  readonly socketDirectory?: string | undefined;
  readonly host?: string | undefined;
  readonly port: number;
  /** How a connection to a host is encrypted: not at all unless it says so. */
  readonly sslMode?: SslMode | undefined;
  /** File of certificates that are trusted, or `system`. */
  readonly sslRootCert?: string | undefined;
}

export interface ConnectOptions {
  readonly address: ServerAddress;
  readonly credentials: Credentials;
  /** Start-up parameters beside the user: `database`, `application_name`, `replication`… */
  readonly parameters: Readonly<Record<string, string>>;
  /** Time for everything up to the first ReadyForQuery. */
  readonly timeoutMs: number;
  /** Destroys the connection, whenever it comes. */
  readonly signal?: AbortSignal | undefined;
}

export interface QueryResult {
  readonly tag: string;
  readonly rows: readonly (readonly (string | null)[])[];
}

type FrameHandler = (frame: Frame) => Promise<void> | void;

interface FrameWaiter {
  readonly resolve: (frame: Frame) => void;
  readonly reject: (error: unknown) => void;
}

export class PgConnection implements AsyncDisposable {
  private readonly socket: Socket;
  private readonly reader = new FrameReader();
  private waiter: FrameWaiter | undefined;
  private stream: { handler: FrameHandler; onEnd: (error: unknown) => void } | undefined;
  private handling = false;
  private failure: unknown;
  private readonly closed: Promise<void>;

  /** `encrypted` is a connection that is made already; without it, one in the clear is made. */
  private constructor(address: ServerAddress, encrypted?: Socket) {
    const onread = {
      buffer: new Uint8Array(READ_BUFFER_SIZE),
      callback: (count: number, buffer: Uint8Array) => this.onBytes(count, buffer),
    };
    this.socket = encrypted
      ? this.reading(encrypted)
      : address.socketDirectory === undefined
        ? connectSocket({ host: address.host ?? "127.0.0.1", port: address.port, noDelay: true, onread })
        : connectSocket({ path: `${address.socketDirectory}/.s.PGSQL.${address.port}`, onread });
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.socket.on("error", (error) => this.fail(unreachable(address, error)));
    this.socket.on("close", () => {
      this.fail(unreachable(address, new Error("the server closed the connection")));
      resolve();
    });
  }

  /** Reads from a socket that has no buffer of ours. */
  private reading(socket: Socket): Socket {
    // It would begin to flow otherwise, before anybody wants anything.
    socket.pause();
    return socket.on("data", (chunk: Uint8Array) => void this.onBytes(chunk.length, chunk));
  }

  /** Connects and logs in. Throws `unreachable`, `timeout`, or a `ServerError` when the server refuses. */
  static async connect(
    options: ConnectOptions,
    random: Random = { bytes: (count) => randomBytes(count) },
  ): Promise<PgConnection> {
    const attempts = attemptsFor(options);
    for (;;) {
      const attempt = attempts.shift();
      if (attempt === undefined) throw unreachable(options.address, new Error("no way to connect"));
      try {
        return await PgConnection.attempt(options, attempt, random);
      } catch (error) {
        if (attempts.length === 0 || !isWorthAnother(error)) throw error;
      }
    }
  }

  /** One way to connect: in the clear, or encrypted. */
  private static async attempt(
    options: ConnectOptions,
    attempt: Attempt,
    random: Random,
  ): Promise<PgConnection> {
    const { address, signal, timeoutMs } = options;
    signal?.throwIfAborted();
    const abort = new AbortController();
    const timer = setTimeout(() => {
      abort.abort(new NeonError(ErrorCode.Timeout, `${describe(address)} did not answer in ${timeoutMs} ms`));
    }, timeoutMs);
    const either = AbortSignal.any([abort.signal, ...(signal ? [signal] : [])]);
    let connection: PgConnection | undefined;
    try {
      const encrypted = attempt === "plain" ? undefined : await encryptedSocket(options, attempt, either);
      const made = new PgConnection(address, encrypted);
      connection = made;
      const onAbort = (): void => made.destroy(either.reason);
      either.addEventListener("abort", onAbort, { once: true });
      made.socket.once("close", () => either.removeEventListener("abort", onAbort));
      if (either.aborted) onAbort();
      await made.logIn(options, random, encrypted instanceof TLSSocket);
      return made;
    } catch (error) {
      connection?.destroy(error);
      throw either.aborted ? either.reason : error;
    } finally {
      clearTimeout(timer);
    }
  }

  private async logIn(options: ConnectOptions, random: Random, encrypted: boolean): Promise<void> {
    const { socketDirectory } = options.address;
    const isPrivate =
      encrypted || socketDirectory !== undefined || isLoopback(options.address.host ?? "127.0.0.1");
    const auth = new ClientAuth(options.credentials, random, { isPrivate });
    this.send(encodeStartup({ user: options.credentials.user, ...options.parameters }));
    for (;;) {
      const frame = await this.pull();
      switch (frame.type) {
        case Backend.Authentication: {
          const answer = await auth.answer(frame.body);
          if (answer) this.send(answer);
          break;
        }
        case Backend.ErrorResponse:
          throw new ServerError(decodeServerMessage(frame.body));
        case Backend.ReadyForQuery:
          if (!auth.done) throw corrupt("the server is ready before it let us in");
          return;
        case Backend.BackendKeyData:
        case Backend.NoticeResponse:
        case Backend.ParameterStatus:
        case Backend.NegotiateProtocolVersion:
          break;
        default:
          throw corrupt(`${describeFrame(frame)} during start-up`, { type: frame.type });
      }
    }
  }

  /** Sends bytes at once. What cannot be sent shows as the failure of the next read. */
  send(bytes: Uint8Array): void {
    if (!this.socket.destroyed) this.socket.write(bytes);
  }

  /** Runs one or more statements; one result each. Throws the first `ServerError`; the connection stays usable. */
  async query(text: string): Promise<QueryResult[]> {
    this.send(encodeQuery(text));
    const results: QueryResult[] = [];
    let rows: (string | null)[][] = [];
    let error: ServerError | undefined;
    for (;;) {
      const frame = await this.pull().catch((failure: unknown) => {
        throw error ?? failure;
      });
      switch (frame.type) {
        case Backend.DataRow:
          if (rows.length >= ROWS_MAX) throw corrupt(`more than ${ROWS_MAX} rows`);
          rows.push(decodeDataRow(frame.body));
          break;
        case Backend.CommandComplete:
          results.push({ tag: decodeCommandTag(frame.body), rows });
          rows = [];
          break;
        case Backend.ErrorResponse:
          error ??= new ServerError(decodeServerMessage(frame.body));
          break;
        case Backend.ReadyForQuery:
          if (error) throw error;
          return results;
        case Backend.RowDescription:
        case Backend.EmptyQueryResponse:
        case Backend.NoticeResponse:
        case Backend.NotificationResponse:
        case Backend.ParameterStatus:
          break;
        default:
          throw this.unexpected(frame, "in answer to a query");
      }
    }
  }

  /** Sends a command that is answered by CopyBoth, and waits for that answer. Throws a `ServerError` if refused. */
  async beginCopyBoth(command: string): Promise<void> {
    this.send(encodeQuery(command));
    for (;;) {
      const frame = await this.pull();
      switch (frame.type) {
        case Backend.CopyBothResponse:
          return;
        case Backend.ErrorResponse:
          throw new ServerError(decodeServerMessage(frame.body));
        case Backend.NoticeResponse:
        case Backend.ParameterStatus:
          break;
        default:
          throw this.unexpected(frame, "in place of CopyBothResponse");
      }
    }
  }

  /**
   * Hands every further frame to `handler`, one at a time; reads nothing while a promise that it returned is pending.
   * Rejects when the connection is lost or the handler fails. Never resolves.
   */
  streamTo(handler: FrameHandler): Promise<never> {
    assert(!this.waiter && !this.stream, "one reader at a time");
    const { promise, reject } = Promise.withResolvers<never>();
    if (this.failure === undefined) {
      this.stream = { handler, onEnd: reject };
      this.pump();
    } else {
      reject(this.failure);
    }
    return promise;
  }

  private unexpected(frame: Frame, where: string): NeonError {
    const error = corrupt(`${describeFrame(frame)} ${where}`, { type: frame.type });
    this.destroy(error);
    return error;
  }

  /** The next frame; its body is valid until the next call. */
  private pull(): Promise<Frame> {
    assert(!this.waiter && !this.stream, "one reader at a time");
    if (this.failure !== undefined) return Promise.reject(this.failure);
    const { promise, resolve, reject } = Promise.withResolvers<Frame>();
    this.waiter = { resolve, reject };
    this.pump();
    return promise;
  }

  private onBytes(count: number, buffer: Uint8Array): boolean {
    this.reader.feed(buffer.subarray(0, count));
    this.pump();
    return true;
  }

  /** Gives frames to whoever wants them until the bytes at hand are used up, and only then lets the socket read on. */
  private pump(): void {
    try {
      while (!this.handling && this.failure === undefined) {
        if (!this.waiter && !this.stream) break;
        const frame = this.reader.next();
        if (!frame) {
          this.socket.resume();
          return;
        }
        this.deliver(frame);
      }
    } catch (error) {
      this.destroy(error);
    }
    this.socket.pause();
  }

  private deliver(frame: Frame): void {
    const { waiter, stream } = this;
    this.waiter = undefined;
    if (waiter) {
      waiter.resolve(frame);
    } else if (stream) {
      const pending = stream.handler(frame);
      if (pending) this.awaitHandler(pending);
    }
  }

  private awaitHandler(pending: Promise<void>): void {
    this.handling = true;
    pending.then(
      () => {
        this.handling = false;
        this.pump();
      },
      (error: unknown) => this.destroy(error),
    );
  }

  /** The first failure counts; whoever reads gets it, now or later. */
  private fail(error: unknown): void {
    if (this.failure !== undefined) return;
    this.failure = error;
    this.waiter?.reject(error);
    this.stream?.onEnd(error);
    this.waiter = this.stream = undefined;
  }

  /** Closes at once; `reason` is what readers get. */
  destroy(reason: unknown = new NeonError(ErrorCode.Unreachable, "the connection was closed")): void {
    this.fail(reason);
    this.socket.destroy();
  }

  /** Says goodbye, if the connection still stands, and waits until the socket is closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.failure === undefined && !this.socket.destroyed) {
      const sent = Promise.withResolvers<void>();
      this.socket.once("close", () => sent.resolve());
      this.socket.write(encodeTerminate(), () => sent.resolve());
      await sent.promise;
    }
    this.destroy();
    await this.closed;
  }
}

/** Sockets in a directory do not leave the machine, and are never encrypted. */
function attemptsFor({ address }: ConnectOptions): Attempt[] {
  return address.socketDirectory === undefined ? [...ATTEMPTS[address.sslMode ?? "disable"]] : ["plain"];
}

function isWorthAnother(error: unknown): boolean {
  return (
    error instanceof HandshakeError ||
    (error instanceof ServerError && error.sqlState === SqlState.InvalidAuthorization)
  );
}

/** A connection that is encrypted; in the clear where the server has nothing to offer and that will do. */
async function encryptedSocket(
  { address, credentials, timeoutMs }: ConnectOptions,
  attempt: Attempt,
  signal: AbortSignal,
): Promise<Socket> {
  const target: LibpqTarget = {
    host: address.host ?? "127.0.0.1",
    port: address.port,
    user: credentials.user,
    password: undefined,
    database: undefined,
    sslMode: address.sslMode ?? "disable",
    sslRootCert: address.sslRootCert,
    passFile: undefined,
    connectTimeoutMs: timeoutMs,
  };
  const raw = connectSocket({ host: target.host, port: target.port, noDelay: true });
  const onAbort = (): void => void raw.destroy();
  signal.addEventListener("abort", onAbort, { once: true });
  const connected = Promise.withResolvers<void>();
  raw.once("connect", connected.resolve);
  raw.once("close", () => connected.reject(new Error("the server closed the connection")));
  // Whoever reads the socket gets the error as well; without a listener it would end the process.
  raw.on("error", connected.reject);
  try {
    if (signal.aborted) onAbort();
    await connected.promise.catch((error: unknown) => {
      throw unreachable(address, error instanceof Error ? error : new Error(String(error)));
    });
    const secure = await requestTls(raw, target);
    if (secure) return secure;
    if (attempt === "tls") throw noTls(target);
    return raw;
  } catch (error) {
    raw.destroy();
    throw error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

function describe(address: ServerAddress): string {
  return address.socketDirectory === undefined
    ? `Postgres at ${address.host ?? "127.0.0.1"}:${address.port}`
    : `Postgres at ${address.socketDirectory}, port ${address.port}`;
}

function unreachable(address: ServerAddress, cause: Error): NeonError {
  return new NeonError(ErrorCode.Unreachable, `${describe(address)}: ${messageOf(cause)}`, { cause });
}
