/** SCRAM-SHA-256 on the server: the example of RFC 7677, our own client, and what is refused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { SCRAM_MECHANISM, ScramClient } from "../../src/pgwire/scram.ts";
import {
  SCRAM_PLUS_MECHANISM,
  ScramServer,
  formatScramVerifier,
  makeScramVerifier,
  mockScramVerifier,
  parseScramVerifier,
} from "../../src/pgwire/scram-server.ts";
import { random } from "./test-server.ts";

const CLIENT_FIRST = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const TAIL = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const NONCE = `rOprNGfwEbeRWgbNEkqO${TAIL}`;
const PROOF = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

async function rfcServer(): Promise<ScramServer> {
  const verifier = await makeScramVerifier("pencil", random, {
    salt: Buffer.from("W22ZaJ0SNY7soEsUEjb6gQ==", "base64"),
    iterations: 4096,
  });
  return new ScramServer(verifier, random, { nonceTail: TAIL });
}

function corrupt(message: RegExp): (error: unknown) => boolean {
  return (error) =>
    error instanceof NeonError && error.code === ErrorCode.Corrupt && message.test(error.message);
}

void test("the dialogue of RFC 7677", async () => {
  const server = await rfcServer();
  const first = server.begin(SCRAM_MECHANISM, CLIENT_FIRST);
  assert.equal(first, `r=${NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096`);
  const last = server.finish(`c=biws,r=${NONCE},p=${PROOF}`);
  assert.equal(last, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
});

void test("a wrong proof, nonce, binding or order", async () => {
  const begun = async (): Promise<ScramServer> => {
    const server = await rfcServer();
    server.begin(SCRAM_MECHANISM, CLIENT_FIRST);
    return server;
  };
  assert.equal((await begun()).finish(`c=biws,r=${NONCE},p=A${PROOF.slice(1)}`), undefined);
  const wrong: [string, RegExp][] = [
    [`c=biws,r=${NONCE}x,p=${PROOF}`, /nonce mismatch/],
    [`c=eSws,r=${NONCE},p=${PROOF}`, /channel binding/],
    [`c=biws,r=${NONCE}`, /malformed/],
    [`r=${NONCE},c=biws,p=${PROOF}`, /malformed/],
    [`c=biws,r=${NONCE},p=${PROOF},x=1`, /malformed/],
    ["", /malformed/],
    ["x".repeat(10_000), /characters/],
  ];
  for (const [text, message] of wrong) {
    const server = await begun();
    assert.throws(() => server.finish(text), corrupt(message), text.slice(0, 60));
  }
  const fresh = await rfcServer();
  assert.throws(() => fresh.finish(`c=biws,r=${NONCE},p=${PROOF}`), corrupt(/before the first/));
  for (const first of ["", "n,,", "n,,n=,r=", "n,a=x,n=,r=abc", "q,,n=,r=abc", "p=tls-unique,,n=,r=abc"]) {
    const server = await rfcServer();
    assert.throws(() => server.begin(SCRAM_MECHANISM, first), corrupt(/malformed|does not fit/), first);
  }
  assert.throws(() => fresh.begin("PLAIN", CLIENT_FIRST), corrupt(/was not offered/));
});

void test("channel binding", async () => {
  const certificateHash = Buffer.alloc(32, 7);
  const verifier = await makeScramVerifier("pencil", random);
  const server = (): ScramServer => new ScramServer(verifier, random, { certificateHash });
  assert.deepEqual(server().mechanisms, [SCRAM_PLUS_MECHANISM, SCRAM_MECHANISM]);
  // Somebody in between has taken the stronger mechanism out of the offer.
  assert.throws(() => server().begin(SCRAM_MECHANISM, "y,,n=,r=abc"), corrupt(/lost on the way/));
  assert.throws(() => server().begin(SCRAM_PLUS_MECHANISM, "n,,n=,r=abc"), corrupt(/does not fit/));
  assert.throws(
    () => server().begin(SCRAM_PLUS_MECHANISM, "p=tls-exporter,,n=,r=abc"),
    corrupt(/does not fit/),
  );
  const other = server();
  const nonce = /^r=([^,]*)/.exec(other.begin(SCRAM_PLUS_MECHANISM, "p=tls-server-end-point,,n=,r=abc"))?.[1];
  const binding = Buffer.concat([Buffer.from("p=tls-server-end-point,,"), Buffer.alloc(32, 8)]).toString(
    "base64",
  );
  assert.throws(() => other.finish(`c=${binding},r=${nonce},p=${PROOF}`), corrupt(/another connection/));
});

void test("our client and our server, with passwords of all kinds", async () => {
  for (const password of [
    "pencil",
    "",
    "  ",
    "pässwörd",
    "\u00a0x\u00ad",
    "\u0007",
    "日本語",
    "x".repeat(2000),
  ]) {
    const verifier = await makeScramVerifier(password, random, { iterations: 10 });
    const stored = parseScramVerifier(formatScramVerifier(verifier));
    assert.ok(stored);
    const login = async (typed: string): Promise<boolean> => {
      const client = new ScramClient(typed, random);
      const server = new ScramServer(stored, random);
      const first = server.begin(SCRAM_MECHANISM, Buffer.from(client.start()).toString());
      const last = server.finish(Buffer.from(await client.answer(first)).toString());
      if (last !== undefined) client.verify(last);
      return client.verified;
    };
    assert.equal(await login(password), true, JSON.stringify(password));
    assert.equal(await login(`${password}x`), false);
  }
});

void test("stored keys: only well-formed ones are read; those of nobody are stable", async () => {
  const text = formatScramVerifier(await makeScramVerifier("x", random));
  assert.match(text, /^SCRAM-SHA-256\$4096:/);
  for (const bad of [
    "",
    text.slice(1),
    `${text}x`,
    text.replace("4096", "0"),
    text.replace("$4096:", "$"),
    text.replace(/.=$/, "="),
  ]) {
    assert.equal(parseScramVerifier(bad), undefined, bad);
  }
  const secret = Buffer.from("s");
  assert.deepEqual(mockScramVerifier("a", secret), mockScramVerifier("a", secret));
  assert.notDeepEqual(mockScramVerifier("a", secret).salt, mockScramVerifier("b", secret).salt);
});
