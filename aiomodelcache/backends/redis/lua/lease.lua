-- Leases each key. Three arguments per key: the expected bytes, the lease, and its lifetime in milliseconds (0: never
-- expires). The lease replaces a value that begins with the expected bytes. If these are empty, the key must be absent.
-- Two arguments in all, a lease and its lifetime, stand for these and for no expected bytes, for every key.
-- Returns what each key holds afterwards, or the error if it concerns that key only. Any other error is returned alone.
-- Expected bytes shorter than state and token (17 bytes) must equal the whole value.
local function lease(key, expected, value, ttl)
  local stored = false
  if expected == '' then
    stored = redis.pcall('SET', key, value, 'NX', 'PX', ttl)  -- false if the key holds something
    if stored and stored.err and string.find(stored.err, 'OOM', 1, true) then
      return redis.pcall('GET', key) or stored
    end
  elseif redis.pcall('GETRANGE', key, 0, math.max(#expected, 17) - 1) == expected then
    stored = ttl == '0' and redis.pcall('SET', key, value) or redis.pcall('SET', key, value, 'PX', ttl)
  end
  if stored then
    return stored.ok and value or stored
  end
  return redis.pcall('GET', key)
end
local replies, shared = {}, #ARGV == 2
for number, key in ipairs(KEYS) do
  local reply
  if shared then
    reply = lease(key, '', ARGV[1], ARGV[2])
  else
    reply = lease(key, ARGV[number * 3 - 2], ARGV[number * 3 - 1], ARGV[number * 3])
  end
  local failure = type(reply) == 'table' and reply.err
  if failure and not (string.find(failure, 'WRONGTYPE', 1, true) or string.find(failure, 'OOM', 1, true)) then
    -- Such as READONLY of a former master. Clients look for it at the beginning of a reply, and for no error in a list.
    reply.err = string.gsub(reply.err, '^@user_script: %d+: %-', '')  -- before Redis 7
    return reply
  end
  replies[number] = reply
end
return replies
