/**
 * One HTTP request on a connection of its own. `fetch` keeps connections, and where a test does something else for as long as
 * the server keeps them, it may send the next request on one that is just being closed.
 */
import { request } from "node:http";

export interface OnceAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly bytes: Buffer;
}

export function httpOnce(
  url: string,
  options: {
    readonly method?: string;
    readonly headers?: Readonly<Record<string, string>>;
    readonly body?: Uint8Array | string | undefined;
  } = {},
): Promise<OnceAnswer> {
  const { method = "GET", headers = {}, body } = options;
  return new Promise((resolve, reject) => {
    const sent = request(url, { method, headers, agent: false }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on("error", reject);
      answer.on("data", (chunk: Buffer) => chunks.push(chunk));
      answer.on("end", () => {
        const shown = new Headers();
        for (const [name, value] of Object.entries(answer.headers)) shown.set(name, String(value));
        resolve({ status: answer.statusCode ?? 0, headers: shown, bytes: Buffer.concat(chunks) });
      });
    });
    sent.on("error", reject);
    sent.end(body);
  });
}
