import { string as stringArg } from "@oclif/core/args";
import { boolean } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { TenantConfig, TenantSetting } from "../../client/tenant-config.ts";
import type { JsonFields } from "../shared/base-command.ts";
import { PageserverCommand } from "../shared/pageserver-command.ts";

export default class TenantConfigCommand extends PageserverCommand {
  static override summary = "Show or change the settings that a tenant may have of its own.";
  static override description =
    "How much history is kept, when layers are written, merged and imaged, how long leases hold: what is not the tenant's own " +
    "is the pageserver's. A change holds at once. Sizes take B, kB, MB and GB, times s, m, h, d and w. " +
    "All settings are explained in docs/settings.md.";
  static override examples = [
    { description: "All of them", command: "<%= config.bin %> tenant config" },
    {
      description: "Keep two days of history",
      command: "<%= config.bin %> tenant config pitr_interval 2d",
    },
    {
      description: "What the pageserver says holds again",
      command: "<%= config.bin %> tenant config pitr_interval --unset",
    },
  ];
  static override args = {
    name: stringArg({ description: "Name of a setting; without it all are shown." }),
    value: stringArg({ description: "Its new value; without it the present one is shown." }),
  };
  static override flags = {
    unset: boolean({ default: false, summary: "Take the tenant's own value away." }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(TenantConfigCommand);
    const { name, value } = args;
    if (flags.unset && (name === undefined || value !== undefined)) {
      throw new NeonError(ErrorCode.Usage, "--unset goes with the name of a setting and without a value", {
        hint: "See `neon tenant config --help`.",
      });
    }
    const { client } = await this.connect(flags);
    const { setTenantConfig, tenantConfig } = await import("../../client/tenant-config.ts");
    const config = await tenantConfig(client);
    if (name === undefined) return this.showAll(client.tenantId, config);
    const before = valueOf(config, name);
    if (value === undefined && !flags.unset) {
      this.print(shown(name, before));
      return { tenant_id: client.tenantId, name, value: before, origin: originOf(config, name) };
    }
    const wanted = value === undefined ? null : await parseValue(name, value, before);
    const after = await setTenantConfig(client, name, wanted);
    const now = valueOf(after, name);
    this.print(
      value === undefined
        ? `${name} is the pageserver's: ${shown(name, now)}`
        : `${name} = ${shown(name, now)}`,
    );
    return { tenant_id: client.tenantId, name, value: now, origin: originOf(after, name) };
  }

  private async showAll(tenantId: string, config: TenantConfig): Promise<JsonFields> {
    const { formatTable } = await import("../shared/output.ts");
    const settings = [...config.effective].map(([name, value]) => ({
      name,
      value,
      origin: originOf(config, name),
    }));
    this.print(
      formatTable(
        ["NAME", "ORIGIN", "VALUE"],
        settings.map(({ name, value, origin }) => [name, origin, shown(name, value)]),
      ),
    );
    return { tenant_id: tenantId, settings };
  }
}

/** Whose value it is. */
function originOf({ own }: TenantConfig, name: string): "tenant" | "pageserver" {
  return own.has(name) ? "tenant" : "pageserver";
}

/** Throws `not_found` with the names that there are. */
function valueOf({ effective }: TenantConfig, name: string): TenantSetting {
  const value = effective.get(name);
  if (value !== undefined) return value;
  throw new NeonError(ErrorCode.NotFound, `"${name}" is no setting of a tenant`, {
    hint: `There are ${[...effective.keys()].join(", ")}.`,
  });
}

/** Of those whose values are numbers, the ones that count bytes. */
const SIZES = /_(distance|horizon|size)$/;

function shown(name: string, value: TenantSetting): string {
  if (typeof value !== "number" || !SIZES.test(name)) return String(value);
  const units = ["B", "kB", "MB", "GB"];
  let [amount, unit] = [value, 0];
  while (amount >= 1024 && amount % 1024 === 0 && unit < units.length - 1)
    [amount, unit] = [amount / 1024, unit + 1];
  return `${amount}${units[unit] ?? ""}`;
}

/** As the pageserver wants it; what kind of value it is, is seen from the present one. */
async function parseValue(name: string, text: string, before: TenantSetting): Promise<TenantSetting> {
  const { parseAge, parseSize } = await import("../shared/amounts.ts");
  // Longer texts, as `1h 30m`, the pageserver reads itself.
  if (typeof before === "string") return text.includes(" ") ? text : `${parseAge(text, name)}ms`;
  if (SIZES.test(name)) return parseSize(text, name);
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new NeonError(ErrorCode.Usage, `"${text}": ${name} is a whole number`);
}
