-- lua5.1 deploy/argocd/health_test.lua
local here = arg[0]:match("^(.*)/[^/]*$") or "."
local function read(name)
  local file = assert(io.open(here .. "/" .. name))
  local text = file:read("*a")
  file:close()
  return text
end

local health = assert(loadstring(read("health.lua"), "health.lua"))
local failed, passed = 0, 0

local function check(name, object, status, message)
  object.metadata = object.metadata or {generation = 2}
  setfenv(health, {obj = object, ipairs = ipairs})
  local is = health()
  if is.status == status and is.message:find(message, 1, true) then
    passed = passed + 1
  else
    failed = failed + 1
    print("FAILED " .. name .. ": " .. is.status .. ", " .. is.message)
  end
end

local function condition(type, status, generation)
  return {type = type, status = status, observedGeneration = generation or 2, reason = type .. "Reason", message = "says why"}
end

local function with(...)
  return {status = {observedGeneration = 2, conditions = {...}}}
end

check("a new object waits", {}, "Progressing", "not seen")
check("an older status does not count", {status = {observedGeneration = 1, conditions = {condition("Ready", "True")}}},
  "Progressing", "not seen")
check("an older condition does not count", with(condition("Ready", "True", 1)), "Progressing", "not every gateway pod")
check("no conditions yet", {status = {observedGeneration = 2}}, "Progressing", "not every gateway pod")
check("ready", with(condition("Accepted", "True"), condition("Ready", "True")), "Healthy", "says why")
check("not ready yet", with(condition("Ready", "False")), "Progressing", "ReadyReason: says why")
check("unknown", with(condition("Ready", "Unknown")), "Progressing", "ReadyReason")
check("only its author can repair it", with(condition("Ready", "False"), condition("Stalled", "True")),
  "Degraded", "StalledReason: says why")
check("an earlier form in force does not hide it", with(condition("Ready", "True"), condition("Stalled", "True")),
  "Degraded", "StalledReason")
check("stalled no more", with(condition("Ready", "True"), condition("Stalled", "False")), "Healthy", "")
check("a status that the API server made up does not count", {metadata = {generation = 1}, status = {observedGeneration = -1}},
  "Progressing", "not seen")
check("a warning blocks nothing", with(condition("Ready", "True"), condition("Conflicted", "True"),
  condition("ExternalTargetUnchecked", "True"), condition("SPFAligned", "False")), "Healthy", "says why")
check("mail that waits is the gateway's own message", with(condition("Ready", "True"), condition("MailDeferred", "True")),
  "Healthy", "says why")
check("a condition nobody knows yet changes nothing", with(condition("Ready", "False"), condition("Halted", "True")),
  "Progressing", "ReadyReason")
check("a reason without a message", {status = {observedGeneration = 2, conditions = {
  {type = "Ready", status = "False", observedGeneration = 2, reason = "RollingOut"}}}}, "Progressing", "RollingOut: ")
check("being deleted", {metadata = {generation = 2, deletionTimestamp = "2026-11-22T10:00:00Z"},
  status = {observedGeneration = 2, conditions = {condition("Ready", "True")}}}, "Progressing", "deleted")

local indented = read("health.lua"):gsub("([^\n]+)", "    %1")
if read("argocd-cm.yaml"):find(indented, 1, true) then
  passed = passed + 1
else
  failed = failed + 1
  print("FAILED argocd-cm.yaml does not hold the text of health.lua")
end

-- Each kind that is defined has this health, and no other.
local kinds = 0
for file in io.popen("ls " .. here .. "/../../crds/*.yaml"):lines() do
  local definition = assert(io.open(file)):read("*a")
  local kind = definition:match("names:.-kind: (%w+)")
  local text = read("argocd-cm.yaml")
  local line = "resource.customizations.health.postern.dev_" .. tostring(kind) .. ":"
  if text:find(line, 1, true) then
    passed = passed + 1
  else
    failed = failed + 1
    print("FAILED argocd-cm.yaml has no health of " .. tostring(kind))
  end
  kinds = kinds + 1
end
local _, named = read("argocd-cm.yaml"):gsub("resource%.customizations%.health%.postern%.dev_", "")
if named ~= kinds then
  failed = failed + 1
  print("FAILED argocd-cm.yaml names " .. named .. " kinds, crds/ has " .. kinds)
end

print(passed .. " passed, " .. failed .. " failed")
os.exit(failed == 0 and 0 or 1)
