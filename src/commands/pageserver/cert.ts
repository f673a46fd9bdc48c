import { existsSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { boolean, integer, string as stringFlag } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

const CERT_FILE = "server.crt";
const KEY_FILE = "server.key";
const DAYS = 3650;
const DAYS_MAX = 36_500;

export default class PageserverCert extends BaseCommand {
  static override summary = "Make a self-signed certificate for the pageserver and use it.";
  static override description =
    "Writes certificate and key beside the pageserver's data and sets pageserver.tls_cert and pageserver.tls_key. Those " +
    "who connect need the certificate (not the key) as a file: postgresql://USER@HOST:PORT?sslmode=verify-full&sslrootcert=FILE\n\n" +
    "Side effects: files server.crt and server.key, two settings. A pageserver that has TLS already takes the new certificate " +
    "at once, another one at its next start.";
  static override examples = [
    "<%= config.bin %> pageserver cert",
    "<%= config.bin %> pageserver cert --host db.example.com --host 10.0.0.7",
    "<%= config.bin %> pageserver cert --force",
  ];
  static override flags = {
    host: stringFlag({
      summary:
        "Name or address that clients use; may be given several times. localhost and this machine's unless given.",
      helpValue: "NAME",
      multiple: true,
    }),
    days: integer({
      summary: "How long it is valid.",
      helpValue: "N",
      default: DAYS,
      min: 1,
      max: DAYS_MAX,
    }),
    force: boolean({ default: false, char: "f", summary: "Replace the certificate that there is." }),
  };

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(PageserverCert);
    const repository = await this.findRepository(flags);
    const certPath = join(repository.pageserverDirectory, CERT_FILE);
    const keyPath = join(repository.pageserverDirectory, KEY_FILE);
    const { tlsCert, tlsKey } = repository.config.pageserver;
    refuseToReplace([tlsCert ?? certPath, certPath, keyPath], flags.force);
    const { makeCertificate } = await import("../../client/certificate.ts");
    const { writeFileAtomically } = await import("../../repository/atomic-file.ts");
    const { randomBytes } = await import("node:crypto");
    const hosts = flags.host ?? [...new Set(["localhost", hostname(), "127.0.0.1", "::1"])];
    const random = { bytes: (count: number) => new Uint8Array(randomBytes(count)) };
    const made = makeCertificate({ hosts, days: flags.days, now: Date.now() }, random);
    // The key first: a server that looks in between finds a pair that does not fit and keeps the one it has.
    await writeFileAtomically(keyPath, made.keyPem, 0o600);
    await writeFileAtomically(certPath, made.certPem, 0o644);
    if (tlsCert !== certPath) await repository.changeSetting("pageserver.tls_cert", certPath);
    if (tlsKey !== keyPath) await repository.changeSetting("pageserver.tls_key", keyPath);
    const expires = new Date(made.expiresAt).toISOString();
    this.print(`Certificate for ${hosts.join(", ")} until ${expires.slice(0, 10)}: ${certPath}`);
    this.say(`SHA-256 ${made.fingerprint}`);
    if (tlsCert !== certPath) this.say("It holds from the next start on: `neon stop`, `neon start`.");
    return { cert: certPath, key: keyPath, hosts, fingerprint: made.fingerprint, expires_at: expires };
  }
}

function refuseToReplace(paths: readonly string[], force: boolean): void {
  const found = paths.find((path) => existsSync(path));
  if (found === undefined || force) return;
  throw new NeonError(ErrorCode.Exists, `there is a certificate already: ${found}`, {
    hint: "--force replaces it; whoever checks the server against the old one needs the new file then.",
  });
}
