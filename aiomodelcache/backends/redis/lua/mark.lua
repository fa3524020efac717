-- Adds the intent ARGV[1] to each key for ARGV[2] milliseconds. Removes expired intents, and any other value.
-- One further argument per key: for how many milliseconds a replaced value or stale copy may be served. If it is above
-- zero, the reply is the replaced entry and the time until which it may be served: that many milliseconds from now, or
-- when the entry would have expired, whichever is sooner. Otherwise the reply is the time of the mark.
-- If a key cannot be marked, its reply is the error if that concerns the key only. Any other error is returned alone.
-- Layout: 'W', then for each writer 16 bytes of token and 13 digits of expiry. The key expires with its last intent.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token, expiry = ARGV[1], now + tonumber(ARGV[2])
local moment = string.format('%.0f', now)
local mine = token .. string.format('%013.0f', expiry)
local replies = {}
for number, key in ipairs(KEYS) do
  local intents, last, reply = 'W', expiry, moment
  local state = redis.pcall('GETRANGE', key, 0, 0)
  if state == 'W' then
    local value = redis.call('GET', key)
    for at = 2, #value, 29 do
      local other = tonumber(string.match(string.sub(value, at + 16, at + 28), '^%d+$')) or 0
      if other > now and string.sub(value, at, at + 15) ~= token then
        intents = intents .. string.sub(value, at, at + 28)
        last = math.max(last, other)
      end
    end
  elseif state == 'V' or state == 'N' or state == 'S' then
    local allow = tonumber(ARGV[number + 2])
    local remaining = allow > 0 and redis.call('PTTL', key) or 0
    if remaining > 0 then
      reply = {redis.call('GET', key), string.format('%.0f', now + math.min(remaining, allow)), moment}
    end
  end
  local stored = type(state) == 'table' and state  -- not a string: the SET would replace it
    or redis.pcall('SET', key, intents .. mine, 'PX', string.format('%.0f', last - now))
  local key_error = stored.err
    and (string.find(stored.err, 'WRONGTYPE', 1, true) or string.find(stored.err, 'OOM', 1, true))
  if stored.err and not key_error then
    -- Such as READONLY of a former master. Clients look for it at the beginning of a reply, and for no error in a list.
    stored.err = string.gsub(stored.err, '^@user_script: %d+: %-', '')  -- before Redis 7
    return stored
  end
  replies[number] = key_error and stored or reply
end
return replies
