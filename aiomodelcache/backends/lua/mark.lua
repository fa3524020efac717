-- Adds the intent ARGV[1] to the key for ARGV[2] milliseconds; drops intents that have expired, and what is
-- no intent. A value or stale entry that it replaces is returned if ARGV[3] is above zero, with the moment that is
-- so many milliseconds from now, or when it would have expired if that is sooner; else 1 is.
-- 'W' is followed by 16 bytes of token and 13 digits of expiry per writer. The key lives as long as the
-- longest of them.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expiry = now + tonumber(ARGV[2])
local allow = tonumber(ARGV[3])
local intents, last, kept = 'W', expiry, 1
local state = redis.call('GETRANGE', KEYS[1], 0, 0)
if state == 'W' then
  local value = redis.call('GET', KEYS[1])
  for at = 2, #value, 29 do
    local other = tonumber(string.match(string.sub(value, at + 16, at + 28), '^%d+$')) or 0
    if other > now and string.sub(value, at, at + 15) ~= ARGV[1] then
      intents = intents .. string.sub(value, at, at + 28)
      last = math.max(last, other)
    end
  end
elseif allow > 0 and (state == 'V' or state == 'N' or state == 'S') then
  local left = redis.call('PTTL', KEYS[1])
  if left > 0 then
    kept = {redis.call('GET', KEYS[1]), string.format('%.0f', now + math.min(left, allow))}
  end
end
intents = intents .. ARGV[1] .. string.format('%013.0f', expiry)
redis.call('SET', KEYS[1], intents, 'PX', string.format('%.0f', last - now))
return kept
