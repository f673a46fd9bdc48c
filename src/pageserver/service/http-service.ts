/**
 * The HTTP side of the pageserver: listens, checks the token, finds the route, and turns answers and errors into
 * bytes. What the routes do is in `routes.ts`.
 */
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import { finished, pipeline } from "node:stream/promises";
import { setImmediate as yieldToLoop, setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { ErrorCode, NeonError, systemCode } from "../../base/errors.ts";
import { isLoopback } from "../../pgwire/loopback.ts";
import type { Authentication } from "./authentication.ts";
import type { ServerTls } from "../../pgwire/server-startup.ts";
import { drain } from "./body.ts";
import { Front } from "./front.ts";
import { HttpError, errorBody, statusOf, toNeonError } from "./http-errors.ts";
import { type Identity, checkEverything, checkTenant } from "./identity.ts";
import type { Metrics } from "./metrics.ts";
import { type Answer, ApiRequest } from "./request.ts";
import type { Router } from "./router.ts";
import type { Handler } from "./route-context.ts";

export type ServiceState = "starting" | "ready" | "stopping";

export interface HttpServiceOptions {
  readonly host: string;
  /** 0 lets the operating system choose. */
  readonly port: number;
  /** Lets clients of other machines in without TLS. */
  readonly insecure: boolean;
  readonly connectionsMax?: number;
  readonly handshakeTimeoutMs?: number;
  /** How long neither side may move an answer on. */
  readonly answerSilenceMs?: number;
  /** Times in milliseconds that are other than usual. */
  readonly limits?: Readonly<
    Partial<Record<"headersTimeout" | "connectionsCheckingInterval" | "keepAliveTimeout", number>>
  >;
}

export interface HttpServiceDependencies {
  readonly router: Router<Handler>;
  readonly authentication: Authentication;
  /** Read for each connection; undefined where there is no certificate. */
  readonly tls: () => ServerTls | undefined;
  readonly log: Logger;
  /** What GET /v1/status answers beside the state; no secrets, it needs no token. */
  readonly status: () => Readonly<Record<string, string | number>>;
  readonly metrics: Metrics;
}

/** How long a client may take to send the head of a request. */
const HEADERS_TIMEOUT_MS = 30_000;
/** How often the server looks for those who take longer. */
const HEADERS_CHECK_MS = 5000;
/**
 * How long a connection may stay without a request. Longer than clients usually keep one, so that it is they who close it: a
 * request on a connection that the server is just closing fails.
 */
const KEEP_ALIVE_MS = 65_000;
/** What went wrong after the head of an answer was sent: JSON as of any error, percent-encoded. */
const ERROR_TRAILER = "x-neon-error";
/** Longest message in it, in characters. */
const TRAILER_MESSAGE_MAX = 2000;
/** How long neither side may move an answer on. */
const ANSWER_SILENCE_MS = 2 * 60_000;
/** Codes of the errors that a client makes by going away. */
const CLIENT_LEFT: ReadonlySet<string> = new Set(["ERR_STREAM_PREMATURE_CLOSE", "ECONNRESET", "EPIPE"]);
/** Who uses a route that is open to all. */
const NOBODY: Identity = { user: "nobody", tenants: new Set() };
/** What requests that mean no route are counted as. */
const OTHER_ROUTE = "other";

export class HttpService implements AsyncDisposable {
  state: ServiceState = "starting";
  private readonly dependencies: HttpServiceDependencies;
  private readonly server: Server;
  private readonly front: Front;
  private readonly answerSilenceMs: number;
  private readonly underWay = new Set<Promise<void>>();

  constructor(options: HttpServiceOptions, dependencies: HttpServiceDependencies) {
    this.dependencies = dependencies;
    this.answerSilenceMs = options.answerSilenceMs ?? ANSWER_SILENCE_MS;
    // An import may take as long as it takes, so there is no limit for a request as a whole; bodies have their own.
    const limits = {
      requestTimeout: 0,
      headersTimeout: HEADERS_TIMEOUT_MS,
      connectionsCheckingInterval: HEADERS_CHECK_MS,
      keepAliveTimeout: KEEP_ALIVE_MS,
      ...options.limits,
    };
    this.server = createServer(limits, (request, response) => {
      const served = this.serve(request, response);
      this.underWay.add(served);
      void served.finally(() => this.underWay.delete(served));
    });
    const { log, tls } = dependencies;
    this.front = new Front(
      { ...options, setting: "pageserver.listen", alpn: ["http/1.1"], refusal: plainRefusal() },
      {
        tls,
        onConnection: (socket) => this.server.emit("connection", socket),
        onFailure: (error, peer) => log.info({ peer, err: error }, "HTTP connection ended"),
      },
    );
  }

  /** Throws `resource` when the port is taken or not ours to take. */
  async listen(): Promise<void> {
    await this.front.listen();
    // The server gets its connections from the front; its watch over slow clients begins with this event.
    this.server.emit("listening");
  }

  /** The port that it listens on. */
  get port(): number {
    return this.front.port;
  }

  /** Clients that are connected now. */
  get connectionCount(): number {
    return this.front.connectionCount;
  }

  /** All routes, for the documentation and for tests that try each of them. */
  get routes(): ReturnType<Router<Handler>["list"]> {
    return this.dependencies.router.list();
  }

  /** Takes no new connections, lets requests under way finish for `graceMs`, then cuts all connections. */
  async stop(graceMs: number): Promise<void> {
    this.state = "stopping";
    if (!this.front.listening) return;
    const closed = this.front.close();
    // Ends connections that nothing is asked on, and says that this server of its own does not listen.
    this.server.close(() => undefined);
    const grace = new AbortController();
    const timeUp = sleep(graceMs, undefined, { signal: grace.signal }).catch(() => undefined);
    await Promise.race([Promise.allSettled(this.underWay), timeUp]);
    grace.abort();
    this.front.destroyConnections();
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop(0);
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { log } = this.dependencies;
    // A client that goes away is not worth more than the end of its own request.
    request.on("error", () => undefined);
    response.on("error", () => undefined);
    const started = performance.now();
    if (await hasLeft(request)) {
      log.info({ method: request.method, url: request.url }, "the client has given up before its turn");
      return;
    }
    const route = { pattern: OTHER_ROUTE };
    try {
      const answer = await this.answer(request, route);
      // A client that takes nothing more must not hold what the answer is made of.
      response.setTimeout(this.answerSilenceMs, () => response.destroy());
      if (this.state === "stopping") response.setHeader("connection", "close");
      await send(request, response, answer);
      log.debug(
        { method: request.method, url: request.url, status: response.statusCode, ms: since(started) },
        "request",
      );
    } catch (error) {
      await this.fail(request, response, error, since(started));
    } finally {
      this.measure(request, response, route.pattern, started);
    }
  }

  private measure(request: IncomingMessage, response: ServerResponse, route: string, started: number): void {
    const { metrics } = this.dependencies;
    const method = route === OTHER_ROUTE ? "" : (request.method ?? "");
    metrics.httpRequests.add({ method, route, status: String(response.statusCode) });
    metrics.httpDurations.observe({ method, route }, (performance.now() - started) / 1000);
  }

  /** Says in `route` which one it is, once that is known. */
  private async answer(request: IncomingMessage, route: { pattern: string }): Promise<Answer> {
    const url = request.url ?? "/";
    const isQuestion = request.method === "GET" || request.method === "HEAD";
    if (isQuestion && (url === "/v1/status" || url.startsWith("/v1/status?"))) {
      route.pattern = "/v1/status";
      return { kind: "json", status: 200, value: { state: this.state, ...this.dependencies.status() } };
    }
    const { router } = this.dependencies;
    const identity = router.isOpen(request.method, url) ? NOBODY : await this.identify(request);
    const { handler, target, pattern, access } = router.find(request.method, url);
    route.pattern = pattern;
    const api = new ApiRequest(request, target, identity);
    if (access === "tenant") checkTenant(identity, api.tenantId);
    if (access === "server") checkEverything(identity);
    if (this.state !== "ready") {
      throw new HttpError(503, ErrorCode.Unreachable, `the pageserver is ${this.state}`, {
        hint: "Try again in a moment.",
      });
    }
    return handler(api);
  }

  private identify(request: IncomingMessage): Promise<Identity> {
    const loopback = isLoopback(request.socket.remoteAddress);
    return this.dependencies.authentication.ofHeader(request.headers.authorization, { loopback });
  }

  private async fail(
    request: IncomingMessage,
    response: ServerResponse,
    thrown: unknown,
    ms: number,
  ): Promise<void> {
    const { log } = this.dependencies;
    const error = toNeonError(thrown);
    const status = statusOf(error);
    const about = { method: request.method, url: request.url, status, ms, code: error.code };
    const clientLeft = CLIENT_LEFT.has(systemCode(thrown) ?? "");
    if (status >= 500 && !clientLeft) log.error({ ...about, err: error }, `request failed: ${error.message}`);
    else log.info(about, `request refused: ${error.message}`);
    if (response.writableFinished) return;
    if (response.headersSent) response.destroy();
    if (response.destroyed) return;
    if (status === 401)
      response.setHeader("www-authenticate", ['Bearer realm="pageserver"', 'Basic realm="pageserver"']);
    await sendJson(request, response, status, errorBody(error));
  }
}

async function send(request: IncomingMessage, response: ServerResponse, answer: Answer): Promise<void> {
  if (answer.kind === "json") {
    await sendJson(request, response, answer.status, answer.value);
    return;
  }
  if (answer.kind === "text") {
    await sendBytes(request, response, 200, answer.contentType, Buffer.from(answer.text));
    return;
  }
  if (answer.kind === "bytes") {
    for (const [name, value] of Object.entries(answer.headers)) response.setHeader(name, value);
    await sendBytes(request, response, 200, "application/octet-stream", answer.bytes);
    return;
  }
  response.writeHead(200, { ...answer.headers, trailer: ERROR_TRAILER });
  await pipeline(endedWithError(answer.stream, response), response);
}

/** An error in the stream ends it, half done; the trailer says so, and why. Then it is thrown here as well. */
async function* endedWithError(
  stream: AsyncIterable<Uint8Array>,
  response: ServerResponse,
): AsyncIterable<Uint8Array> {
  try {
    yield* stream;
  } catch (error) {
    const { code, message, hint } = toNeonError(error);
    const told = { error: { code, message: message.slice(0, TRAILER_MESSAGE_MAX), hint: hint ?? null } };
    response.addTrailers({ [ERROR_TRAILER]: encodeURIComponent(JSON.stringify(told)) });
    response.end();
    await finished(response).catch(() => undefined);
    throw error;
  }
}

async function sendJson(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  value: object | string,
): Promise<void> {
  const bytes = Buffer.from(`${JSON.stringify(value)}\n`);
  await sendBytes(request, response, status, "application/json; charset=utf-8", bytes);
}

async function sendBytes(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  contentType: string,
  bytes: Uint8Array,
): Promise<void> {
  response.writeHead(status, {
    "content-type": contentType,
    "content-length": bytes.length,
    "cache-control": "no-store",
  });
  response.write(bytes);
  // Closing while the client still sends would reset the connection, and it might never see the answer.
  await drain(request);
  response.end();
  if (!response.writableFinished && !response.destroyed) await finished(response).catch(() => undefined);
}

/**
 * Whether the client of a request that changes something is gone already: it has reported a failure, and a server that
 * was held up should not do now what nobody waits for. The end of a connection arrives after what was sent before it.
 */
async function hasLeft(request: IncomingMessage): Promise<boolean> {
  if (request.method === "GET") return false;
  for (let turn = 0; turn < 2 && !request.destroyed; turn++) await yieldToLoop();
  return request.destroyed || request.socket.destroyed;
}

function since(started: number): number {
  return Math.round(performance.now() - started);
}

/** For a client of another machine that does not encrypt. */
function plainRefusal(): Uint8Array {
  const error = new NeonError(
    ErrorCode.Declined,
    "this pageserver lets clients of other machines in with TLS only: https://",
    { hint: "Give the client the server's certificate, or set insecure = true in a network you trust." },
  );
  const body = `${JSON.stringify(errorBody(error))}\n`;
  const head = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\nconnection: close\r\n";
  return Buffer.from(`${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
}
