-- Withdraws the intent ARGV[1]. The last one to go leaves the hint ARGV[2], if not empty, for ARGV[3]
-- milliseconds (0: for ever), or until ARGV[4] by this server's clock, if that is above zero. A key without intents is deleted, whatever it holds: this writer's intent
-- was lost, so what came after may be older than its write. Returns 1 if the intent was found.
if redis.pcall('GETRANGE', KEYS[1], 0, 0) ~= 'W' then
  redis.call('UNLINK', KEYS[1])
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local value = redis.call('GET', KEYS[1])
local intents, last, found = '', 0, 0
for at = 2, #value, 29 do
  local expiry = tonumber(string.match(string.sub(value, at + 16, at + 28), '^%d+$')) or 0
  if string.sub(value, at, at + 15) == ARGV[1] then
    found = 1
  elseif expiry > now then
    intents = intents .. string.sub(value, at, at + 28)
    last = math.max(last, expiry)
  end
end
if intents ~= '' then
  -- A server that is out of memory refuses a script's first write only: deleting lets the rest be kept.
  redis.call('UNLINK', KEYS[1])
  redis.call('SET', KEYS[1], 'W' .. intents, 'PX', string.format('%.0f', last - now))
  return found
end
local hint = {err = 'none'}
local ttl = tonumber(ARGV[4]) > 0 and tonumber(ARGV[4]) - now or tonumber(ARGV[3])
if found == 1 and ARGV[2] ~= '' then
  if ttl > 0 then
    hint = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', string.format('%.0f', ttl))
  elseif ARGV[4] == '0' then
    hint = redis.pcall('SET', KEYS[1], ARGV[2])
  end
end
if hint.err then
  redis.call('UNLINK', KEYS[1])
end
return found
