from typing import Any

from main import app
from probe import look_up, rename, stream

app.get("/probe")(look_up)
app.post("/rename/<title>")(rename)


@app.get("/stream")
async def streamed() -> Any:
    return stream(), 200
