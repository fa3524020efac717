-- Stores rows that were read without a lease, if the stamp, the first key, still is ARGV[1] and this server's clock is
-- before ARGV[2], in milliseconds. Three further arguments per row: bytes with which a value that it may replace begins
-- (empty if the key must be absent), the row, and its lifetime in milliseconds.
-- Returns for each row 1 if it was stored, else the value that the key holds, or an empty text if that does not matter.
-- An error that does not concern one key only is returned alone.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local usable = redis.pcall('GETRANGE', KEYS[1], 0, -1) == ARGV[1] and now < tonumber(ARGV[2])
local replies = {}
for number = 2, #KEYS do
  local key, at = KEYS[number], number * 3 - 3
  local replacing, value, ttl = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local reply, stored = '', false
  if usable then
    if replacing == '' then
      stored = redis.pcall('SET', key, value, 'NX', 'PX', ttl)
    elseif redis.pcall('GETRANGE', key, 0, 16) == replacing then
      stored = redis.pcall('SET', key, value, 'PX', ttl)
    end
    if not stored then
      reply = redis.pcall('GET', key) or ''
      if type(reply) == 'table' then  -- no value of this library
        reply = ''
      end
    elseif stored.ok then
      reply = 1
    elseif not string.find(stored.err, 'OOM', 1, true) then
      return stored  -- such as READONLY of a former master: clients look for it at the top of a reply only
    end
  end
  replies[number - 1] = reply
end
return replies
