// Starts headless Chromium with its own profile and without background requests.
export function launch(chromium, profile) {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  const quiet = ["--disable-background-networking", "--disable-sync", "--disable-quic", "--disable-gpu"];
  return chromium.launchPersistentContext(profile, { executablePath, args: ["--no-sandbox", ...quiet] });
}
