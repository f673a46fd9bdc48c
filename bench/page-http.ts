/**
 * Single pages over HTTP (`TL/getpage`) as a protocol of the benchmark. HTTP/1.1 answers one request after the other, so a
 * connection of the benchmark is as many sockets as it has requests under way; a request for several pages is as many,
 * side by side. What comes is counted and looked at where an answer says how it went.
 */
import { once } from "node:events";
import { type Socket, connect } from "node:net";
import type { PageConnection, PageProtocol, PageTarget } from "./page-protocol.ts";

const PAGE_SIZE = 8192;
const OK = "HTTP/1.1 200";
const HEAD_END = Buffer.from("\r\n\r\n");

export const httpPages: PageProtocol = { name: "http", connect: connectHttpPages };

/** A connection that is kept. */
class Exchange {
  private readonly socket: Socket;
  private head: Buffer = Buffer.alloc(0);
  /** Of the page that is being received; 0 while a head is. */
  private left = 0;
  private done: () => void = () => undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => this.take(chunk));
  }

  ask(request: string, done: () => void): void {
    this.done = done;
    this.socket.write(request);
  }

  async close(): Promise<void> {
    const closed = once(this.socket, "close");
    this.socket.end();
    await closed;
  }

  private take(chunk: Buffer): void {
    let body = chunk;
    if (this.left === 0) {
      this.head = Buffer.concat([this.head, chunk]);
      const end = this.head.indexOf(HEAD_END);
      if (end < 0) return;
      const head = this.head.toString("latin1", 0, end);
      if (!head.startsWith(OK) || !head.toLowerCase().includes(`content-length: ${PAGE_SIZE}`)) {
        throw new Error(`no page: ${this.head.toString("latin1").slice(0, 600)}`);
      }
      body = this.head.subarray(end + HEAD_END.length);
      this.head = Buffer.alloc(0);
      this.left = PAGE_SIZE;
    }
    this.left -= body.length;
    if (this.left === 0) this.done();
  }
}

async function connectHttpPages(target: PageTarget): Promise<PageConnection> {
  const all: Exchange[] = [];
  const free: Exchange[] = [];
  const waiting: ((exchange: Exchange) => void)[] = [];
  const give = (exchange: Exchange): void => {
    const next = waiting.shift();
    if (next) next(exchange);
    else free.push(exchange);
  };
  const withExchange = (use: (exchange: Exchange) => void): void => {
    const exchange = free.pop();
    if (exchange) {
      use(exchange);
      return;
    }
    waiting.push(use);
    const socket = connect({ host: target.host, port: target.ports["http"] ?? 0, noDelay: true });
    socket.once("connect", () => {
      const made = new Exchange(socket);
      all.push(made);
      give(made);
    });
  };
  return {
    request: (blocks, done) => {
      let left = blocks.length;
      for (const block of blocks) {
        withExchange((exchange) => {
          exchange.ask(getPage(target, block), () => {
            give(exchange);
            if (--left === 0) done();
          });
        });
      }
    },
    close: async () => {
      await Promise.all(all.map((exchange) => exchange.close()));
    },
  };
}

function getPage({ host, tenantId, timelineId, dbOid, relNumber, token }: PageTarget, block: number): string {
  const word = (value: number): string => value.toString(16).padStart(8, "0");
  const key = `00${word(1663)}${word(dbOid)}${word(relNumber)}00${word(block)}`;
  return `GET /v1/tenant/${tenantId}/timeline/${timelineId}/getpage?key=${key} HTTP/1.1\r\nHost: ${host}\r\nAuthorization: Bearer ${token}\r\n\r\n`;
}
