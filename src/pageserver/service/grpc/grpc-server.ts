/**
 * gRPC over HTTP/2, without knowledge of any service: sessions on sockets that somebody else has accepted, their calls,
 * and the bounds on both. A session whose peer is gone is found by pings; calls and sessions that ask for nothing end.
 */
import {
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
  performServerHandshake,
} from "node:http2";
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { TLSSocket } from "node:tls";
import { type CallLimits, GrpcCall, type UnsentBytes } from "./grpc-call.ts";
import { GrpcCode, GrpcError, type GrpcStatus, OK, grpcStatusOf } from "./grpc-status.ts";

/** What is known of the other side of a session. */
export interface GrpcPeer {
  readonly address: string;
  readonly loopback: boolean;
}

/** Serves a call. When it resolves, the call has ended well; what it throws becomes the status. */
export type CallHandler = (call: GrpcCall, peer: GrpcPeer) => Promise<void>;

export interface GrpcMethod {
  readonly handle: CallHandler;
  /** How long it may be without a message of the client that is waited for. */
  readonly idleMs: number;
  /** Goes on until somebody ends it, so nobody waits for its end. */
  readonly isEndless?: boolean;
}

export interface GrpcServerLimits extends CallLimits {
  readonly callsMax: number;
  readonly streamsPerSessionMax: number;
  readonly headerBytesMax: number;
  readonly pingAfterMs: number;
  readonly pingTimeoutMs: number;
  /** Without any call. */
  readonly sessionIdleMs: number;
  /** How often calls and sessions are looked at. */
  readonly sweepMs: number;
}

export interface GrpcServerDependencies {
  /** By their path. */
  readonly methods: ReadonlyMap<string, GrpcMethod>;
  /** Told of each call that has ended. */
  readonly onEnd: (call: GrpcCall, status: GrpcStatus, error: unknown) => void;
}

interface Session {
  readonly session: ServerHttp2Session;
  readonly socket: Socket;
  readonly peer: GrpcPeer;
  calls: number;
  idleSince: number;
  pingSentAt: number;
  isPingOpen: boolean;
  /** When it was first seen to have ended while its client stays on the line. */
  endedAt: number | undefined;
}

interface OpenCall {
  readonly method: GrpcMethod;
  readonly done: Promise<void>;
}

/** In MiB: of what a session makes the process keep. */
const SESSION_MEMORY_MIB = 16;
const HEADER_PAIRS_MAX = 64;
const PINGS_MAX = 8;
/** How long the last bytes to a client may take when the server stops. */
const FAREWELL_MS = 500;

export class GrpcServer implements AsyncDisposable {
  private readonly limits: GrpcServerLimits;
  private readonly dependencies: GrpcServerDependencies;
  private readonly sessions = new Map<ServerHttp2Session, Session>();
  private readonly calls = new Map<GrpcCall, OpenCall>();
  private readonly unsent: UnsentBytes = { total: 0 };
  private readonly sweeper: NodeJS.Timeout;
  private isStopping = false;
  /** Called when the last session has closed. */
  private onEmpty: (() => void) | undefined;

  constructor(limits: GrpcServerLimits, dependencies: GrpcServerDependencies) {
    this.limits = limits;
    this.dependencies = dependencies;
    this.sweeper = setInterval(() => this.sweep(performance.now()), limits.sweepMs).unref();
  }

  get sessionCount(): number {
    return this.sessions.size;
  }

  get callCount(): number {
    return this.calls.size;
  }

  /** Sent to clients and not taken by them. */
  get unsentBytes(): number {
    return this.unsent.total;
  }

  /** Speaks HTTP/2 on a connection, until it ends. */
  serve(socket: Socket, peer: GrpcPeer): void {
    if (this.isStopping) {
      socket.destroy();
      return;
    }
    const { streamsPerSessionMax, headerBytesMax } = this.limits;
    const session = performServerHandshake(socket, {
      maxSessionMemory: SESSION_MEMORY_MIB,
      maxHeaderListPairs: HEADER_PAIRS_MAX,
      maxOutstandingPings: PINGS_MAX,
      settings: {
        maxConcurrentStreams: streamsPerSessionMax,
        maxHeaderListSize: headerBytesMax,
        enablePush: false,
      },
    });
    // A session on an encrypted socket waits for what Node tells clients only; here the handshake is over.
    if (socket instanceof TLSSocket) socket.emit("secureConnect");
    const now = performance.now();
    const known: Session = {
      session,
      socket,
      peer,
      calls: 0,
      idleSince: now,
      pingSentAt: now,
      isPingOpen: false,
      endedAt: undefined,
    };
    this.sessions.set(session, known);
    // The session closes after an error of its own or of its socket.
    session.on("error", () => undefined);
    session.on("close", () => {
      this.sessions.delete(session);
      socket.destroy();
      if (this.sessions.size === 0) this.onEmpty?.();
    });
    // A peer that says nothing any more cannot take anything either: it would have to say that it has room for it.
    socket.once("end", () => socket.destroy());
    session.on("stream", (stream, headers) => this.accept(known, stream, headers));
  }

  /** Ends waiting streams at once, lets work under way finish, and cuts what is left after `graceMs`. */
  async stop(graceMs: number): Promise<void> {
    this.isStopping = true;
    clearInterval(this.sweeper);
    for (const { session } of this.sessions.values()) if (!session.destroyed) session.close();
    for (const [call, { method }] of this.calls) {
      if (call.idleSince !== undefined || method.isEndless) call.abort(stopping());
    }
    await this.allDone(graceMs);
    for (const call of this.calls.keys()) call.abort(stopping());
    for (const { session } of this.sessions.values()) session.destroy();
    await Promise.allSettled([...this.calls.values()].map(({ done }) => done));
    if (this.sessions.size === 0) return;
    // A client may have the last words, and stay on the line all the same.
    const timer = setTimeout(() => {
      for (const { socket } of this.sessions.values()) socket.destroy();
    }, FAREWELL_MS);
    await new Promise<void>((resolve) => {
      this.onEmpty = resolve;
    });
    clearTimeout(timer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop(0);
  }

  private async allDone(graceMs: number): Promise<void> {
    const grace = new AbortController();
    const timeUp = sleep(graceMs, undefined, { signal: grace.signal }).catch(() => undefined);
    await Promise.race([Promise.allSettled([...this.calls.values()].map(({ done }) => done)), timeUp]);
    grace.abort();
  }

  private accept(session: Session, stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    // Whoever reads the stream learns of it by its close.
    stream.on("error", () => undefined);
    if (stream.destroyed || stream.closed) return;
    const refused = refusal(headers);
    if (refused !== undefined) {
      stream.respond({ ":status": refused }, { endStream: true });
      stream.resume();
      return;
    }
    const call = new GrpcCall(stream, headers, { limits: this.limits, unsent: this.unsent });
    const method = this.dependencies.methods.get(call.path);
    if (this.isStopping) return call.finish(grpcStatusOf(stopping()));
    if (this.calls.size >= this.limits.callsMax) {
      return call.finish({
        code: GrpcCode.ResourceExhausted,
        details: `the pageserver has ${this.calls.size} calls already`,
      });
    }
    if (!method) {
      return call.finish({
        code: GrpcCode.Unimplemented,
        details: `there is no method ${call.path.slice(0, 100)}`,
      });
    }
    session.calls++;
    const done = this.run(call, method, session.peer).finally(() => {
      this.calls.delete(call);
      session.calls--;
      session.idleSince = performance.now();
    });
    this.calls.set(call, { method, done });
  }

  private async run(call: GrpcCall, method: GrpcMethod, peer: GrpcPeer): Promise<void> {
    let status = OK;
    let failure: unknown;
    try {
      await method.handle(call, peer);
    } catch (error) {
      failure = error;
      status = grpcStatusOf(error);
    }
    call.finish(status);
    this.dependencies.onEnd(call, status, failure);
  }

  private sweep(now: number): void {
    for (const [call, { method }] of this.calls) {
      if (call.idleSince === undefined || now - call.idleSince < method.idleMs) continue;
      call.abort(
        call.messagesReceived === 0
          ? new GrpcError(GrpcCode.DeadlineExceeded, "the call's message did not come in time")
          : new GrpcError(GrpcCode.Unavailable, "the stream asked for nothing for too long"),
      );
    }
    for (const known of this.sessions.values()) this.look(known, now);
  }

  private look(known: Session, now: number): void {
    const { session } = known;
    const { pingAfterMs, pingTimeoutMs, sessionIdleMs } = this.limits;
    if (session.destroyed) {
      // Its last bytes may still be on their way.
      known.endedAt ??= now;
      if (now - known.endedAt >= pingTimeoutMs) known.socket.destroy();
      return;
    }
    if (known.isPingOpen) {
      if (now - known.pingSentAt >= pingTimeoutMs) session.destroy();
      return;
    }
    if (known.calls === 0 && now - known.idleSince >= sessionIdleMs) {
      session.close();
      return;
    }
    if (now - known.pingSentAt < pingAfterMs) return;
    known.pingSentAt = now;
    known.isPingOpen = session.ping((error) => {
      if (error === null) known.isPingOpen = false;
    });
  }
}

/** The HTTP status for what is no call of gRPC at all. */
function refusal(headers: IncomingHttpHeaders): number | undefined {
  if (headers[":method"] !== "POST") return 405;
  return /^application\/grpc(?:$|[+;])/.test(headers["content-type"] ?? "") ? undefined : 415;
}

function stopping(): GrpcError {
  return new GrpcError(GrpcCode.Unavailable, "the pageserver is being stopped", {
    hint: "Ask again in a moment.",
  });
}
