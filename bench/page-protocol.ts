/**
 * What the benchmark of the page service needs of a protocol: a connection that sends requests for pages and says when
 * all pages of a request are there. Clients do as little as they can with what comes, so that the server is measured.
 */
export interface PageTarget {
  readonly host: string;
  /** By protocol. */
  readonly ports: Readonly<Record<string, number>>;
  readonly token: string;
  readonly tenantId: string;
  readonly timelineId: string;
  readonly dbOid: number;
  readonly relNumber: number;
}

export interface PageConnection {
  /** Sends one request for these blocks; `done` is called when all of them are there. Throws for an error. */
  request(blocks: readonly number[], done: () => void): void;
  close(): Promise<void>;
}

export interface PageProtocol {
  readonly name: string;
  connect(target: PageTarget): Promise<PageConnection>;
}

/** One measurement: what each of `clients` connections does at the same time. */
export interface Load {
  readonly protocol: string;
  readonly clients: number;
  /** Requests of a connection that are under way at a time. */
  readonly depth: number;
  /** Pages of a request. */
  readonly batch: number;
  /** Of all connections together, as is the next. */
  readonly pages: number;
  readonly warmUpPages: number;
  /** Blocks from 0 on that are asked for, in turn. */
  readonly hotPages: number;
}

export interface Measured {
  readonly pages: number;
  readonly seconds: number;
  /** Of requests, in microseconds. */
  readonly p50: number;
  readonly p99: number;
}
